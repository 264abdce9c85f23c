"""Files of archives as files on the disk, one at a time, in a private folder."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, lru_cache
from itertools import count
from pathlib import Path
from zipfile import ZipFile

from medfocus.engine.io.inputs.archives import inflate_member, open_archive
from medfocus.engine.io.inputs.files import IMAGE_ENDINGS, InputFile


@contextmanager
def staging() -> Iterator[Callable[[InputFile], Path]]:
    """A function from an input to a path that can be read; what it writes is removed at the end.

    The caller may remove a file below `staging`'s folder as soon as it is done with it. The
    function raises what `inflate_member` raises.
    """
    numbers = count()
    with ExitStack() as stack, ExitStack() as archive:

        @cache
        def folder() -> Path:
            made = tempfile.TemporaryDirectory(prefix="medfocus-", ignore_cleanup_errors=True)
            return Path(stack.enter_context(made))

        @lru_cache(maxsize=1)
        def opened(path: Path) -> ZipFile:
            archive.close()  # one at a time: there may be more archives than a process may open
            return archive.enter_context(open_archive(path))

        def staged(file: InputFile) -> Path:
            if file.member is None:
                return file.path
            suffix = Path(file.member).suffix.lower()
            target = folder() / f"{next(numbers)}{suffix if suffix in IMAGE_ENDINGS else ''}"
            inflate_member(opened(file.path), file.member, target, file.name)
            return target

        yield staged
