// Keys for the buttons of a page. Without this script, everything still works.
document.addEventListener('keydown', (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.isComposing) {
    return;
  }
  const focused = document.activeElement;
  if (focused && focused.matches('input, select, textarea')) {
    if (event.key === 'Escape') {
      focused.blur();
    }
    return;
  }
  if (!/^[a-z]$/.test(event.key)) {
    return;
  }
  const target = document.querySelector(`[data-key="${event.key}"]`);
  if (!target) {
    return;
  }
  event.preventDefault();
  if (target.matches('input')) {
    target.focus();
  } else {
    target.click();
  }
});
