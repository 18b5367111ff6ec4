"""Which data set a command line means."""

import kaggle_client
import locate
from errors import UserError
from files import shown
from locate import Layout, Source


def found(given: str | None, slug: str, layout: Layout, want_demo: bool) -> Source | None:
    """The data set: named, found, or downloaded when credentials exist; None where only the built-in synthetic one is left.

    `want_demo` asks for the built-in set, or for `given` when that is a synthetic set; UserError when it is not.
    """
    source = locate.find(given, slug, layout) if given or not want_demo else None
    if want_demo and source and not source.synthetic:
        raise UserError(f"--demo applies the settings of the synthetic set, and {shown(source.folder)} is none: leave --demo out")
    if source is None and not want_demo and layout.from_kaggle and kaggle_client.has_credentials():
        folder = kaggle_client.download(slug)
        source = locate.opened(folder, shown(folder), layout)
    return source
