# shellcheck shell=bash
# Functions that print and run commands. The launch scripts source this file.

# Prints a command, quoted for a shell.
show() {
  local word line='' tick="'" escaped="'\\''"
  for word; do
    [[ $word =~ ^[A-Za-z0-9_.,:/=@%+-]+$ ]] ||
      word="'${word//$tick/$escaped}'"
    line+="$word "
  done
  printf '%s\n' "${line% }"
}

# Prints a command to standard error and runs it; with dry_run, only prints it.
run() {
  if [[ ${dry_run-} ]]; then show "$@"; else show "$@" >&2 && "$@"; fi
}
