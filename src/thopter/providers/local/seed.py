"""Runs as ``python -S -E -I seed.py SOURCE-ROOT SOCKET-FD VERSION NAME HOME``: becomes the zygote."""

import gc
import importlib
import pkgutil
import sys


def grow(source: str, fd: int, version: str, name: str, home: str) -> None:
    """Import all that any box will need, then be the zygote. Never returns."""
    sys.path.append(source)  # after the standard library: nothing installed may shadow it
    sys.dont_write_bytecode = True
    boxd = importlib.import_module("thopter.boxd")
    for module in pkgutil.iter_modules(boxd.__path__, "thopter.boxd."):
        if not module.name.endswith(".__main__"):
            importlib.import_module(module.name)
    zygote = importlib.import_module("thopter.providers.local.zygote")
    keeper = importlib.import_module("thopter.providers.local.vm_keeper")
    init = importlib.import_module("thopter.boxd.init")
    gc.collect()
    gc.freeze()  # collections in boxes then leave the shared pages alone
    zygote.main(fd, version, name, home, keeper.or_init(init.run_init))


if __name__ == "__main__":
    grow(sys.argv[1], int(sys.argv[2]), *sys.argv[3:6])
