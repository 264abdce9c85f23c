"""Files of archives as files on the disk, one at a time, in a private folder."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from itertools import count
from pathlib import Path

from medfocus.engine.io.inputs.archives import inflate_member, open_archive
from medfocus.engine.io.inputs.files import IMAGE_ENDINGS, InputFile


@contextmanager
def staging() -> Iterator[Callable[[InputFile], Path]]:
    """A function from an input to a path that can be read; what it writes is removed at the end.

    The caller may remove a file below `staging`'s folder as soon as it is done with it. The
    function raises what `inflate_member` raises.
    """
    numbers = count()
    with ExitStack() as stack:
        archive = cache(lambda path: stack.enter_context(open_archive(path)))

        @cache
        def folder() -> Path:
            made = tempfile.TemporaryDirectory(prefix="medfocus-", ignore_cleanup_errors=True)
            return Path(stack.enter_context(made))

        def staged(file: InputFile) -> Path:
            if file.member is None:
                return file.path
            suffix = Path(file.member).suffix.lower()
            target = folder() / f"{next(numbers)}{suffix if suffix in IMAGE_ENDINGS else ''}"
            inflate_member(archive(file.path), file.member, target, file.name)
            return target

        yield staged
