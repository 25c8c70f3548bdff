"""QR codes, as rows of ``0`` and ``1``: the page and the terminal draw them."""

from __future__ import annotations


def rows_of(text: str) -> list[str]:
    """The code of ``text``, without its margin."""
    import segno  # 20 ms that few calls need

    code = segno.make(text, error="m", micro=False)
    return ["".join("1" if cell else "0" for cell in row) for row in code.matrix]
