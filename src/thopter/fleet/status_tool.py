"""``thopter-status``, put into every box: by it a program of the box reports how the work goes.

Plain bash, as the hook script: a box may have neither curl nor python. It speaks to boxd on the loopback
with the box's own token, which opens nothing else.
"""

from __future__ import annotations

from thopter.model.sockets import FileSpec, Places

SCRIPT = r"""#!/bin/bash
# thopter-status: tell the people who watch this thopter how the work goes.
export LC_ALL=C
usage() {
  cat <<'END'
thopter-status VERB [TEXT]     TEXT of '-' is read from standard input

  statusline TEXT   one line on what you do now ('task' is the same)
  log TEXT          something worth knowing, kept in the log
  message [TEXT]    your words to the people who watch; without TEXT from standard input
  waiting [TEXT]    you need a person: say what for, then end your turn
  done [TEXT]       the whole task is done
  running [TEXT]    there is work again: takes 'done' or 'waiting' back
  inactive [TEXT]   you pause
  show              what was reported so far
  heartbeat         is the supervisor of this box there?
END
}
fail() { printf 'thopter-status: %s\n' "$1" >&2; exit "$2"; }

verb=${1:-}
[ $# -gt 0 ] && shift
case $verb in
  task) verb=statusline ;;
  log|statusline|message|waiting|done|running|inactive|heartbeat|show) ;;
  help|-h|--help) usage; exit 0 ;;
  '') usage >&2; exit 2 ;;
  *) fail "there is no verb '$verb'; see: thopter-status help" 2 ;;
esac
[ "${1:-}" = -- ] && shift
text=$*
if [ "$text" = - ] || { [ "$verb" = message ] && [ $# -eq 0 ]; }; then
  text=$(head -c 65536 | tr '\000' ' ')
  [ "$verb" = message ] && [ -z "$text" ] && exit 0
fi
case $verb in
  log|statusline|message) [ -n "$text" ] || fail "$verb needs a text" 2 ;;
esac
text=${text:0:65536}

where=${THOPTER_STATUS_FILE:-/run/thopter/status}
{ read -r port token <"$where"; } 2>/dev/null ||
  fail "$where can't be read: is this a thopter's box, and are you root?" 1
mute="the supervisor of this box does not answer"
{ exec 3<>"/dev/tcp/127.0.0.1/$port"; } 2>/dev/null || fail "$mute" 1
method=POST path=/said/$verb
[ "$verb" = show ] && method=GET path=/said text=
{
  printf '%s %s?run=%s HTTP/1.1\r\nHost: 127.0.0.1:%s\r\n' "$method" "$path" "${THOPTER_RUN:-}" "$port"
  printf 'Authorization: Bearer %s\r\nContent-Length: %d\r\n' "$token" "${#text}"
  printf 'Connection: close\r\n\r\n%s' "$text"
} >&3 2>/dev/null
IFS= read -r -t 10 status <&3 || fail "$mute" 1
while IFS= read -r -t 10 line <&3 && [ "$line" != $'\r' ]; do :; done
case $status in
  'HTTP/1.1 204'*) exit 0 ;;
  'HTTP/1.1 200'*) [ "$verb" = show ] && cat <&3; exit 0 ;;
esac
IFS= read -r -d '' -t 10 body <&3
fail "not taken: ${body:-$status}" 1
"""


def files(places: Places) -> tuple[FileSpec, ...]:
    """The program, for every agent and every provider."""
    script = SCRIPT.replace(Places().run, places.run)
    return (FileSpec(path=f"{places.bin}/thopter-status", content=script.encode(), mode=0o755),)
