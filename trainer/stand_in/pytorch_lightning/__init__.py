"""What a child process imports where its parent runs on :mod:`leyden.compat`.

Children that are not forked (loader workers on macOS, ``torch.multiprocessing.spawn``) get the
parent's ``sys.path`` and nothing else of it, so the folder above is on that.
"""

import importlib

from leyden.compat import install

__all__: list[str] = []

if __name__ == "pytorch_lightning":  # not as a module of leyden, which nobody needs
    install(force=True)
    # In place of this module, whose import is just under way.
    importlib.import_module(__name__)
