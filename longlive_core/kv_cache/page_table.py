"""Which slot holds which page. Integers only: no tensors, no device."""

from collections.abc import Collection, Iterable

from longlive_core.checks import whole


class PageTable:
    """A fixed number of slots; a page keeps its slot until it is dropped, so nothing ever moves."""

    def __init__(self, slots: int) -> None:
        slots = whole("PageTable's slots", slots, at_least=0, why="each holds a page.")
        self._pages: list[int | None] = [None] * slots

    @property
    def pages(self) -> tuple[int | None, ...]:
        """The page in each slot; None where a slot is free."""
        return tuple(self._pages)

    @property
    def used(self) -> tuple[int, ...]:
        """The slots that hold a page, ascending."""
        return tuple(slot for slot, page in enumerate(self._pages) if page is not None)

    def slot(self, page: int) -> int:
        """The slot of a page that is held."""
        return self._pages.index(page)

    def page(self, slot: int) -> int:
        """The page in a slot that is not free."""
        page = self._pages[slot]
        assert page is not None, f"slot {slot} is free"
        return page

    def slots(self, pages: Iterable[int]) -> tuple[int, ...]:
        """The slots of these pages, ascending. Raises ``ValueError`` if one is not held."""
        pages = tuple(pages)
        lost = [page for page in pages if page not in self._pages]
        if lost:
            held = sorted(page for page in self._pages if page is not None)
            raise ValueError(
                f"the window policy shows pages {list(pages)}, but {lost} are not held (held: "
                f"{held}): a page that was not retained is gone. "
                f"Let the policy's retained() name every page that a later block sees."
            )
        return tuple(sorted(self.slot(page) for page in pages))

    def keep(self, retained: Collection[int]) -> None:
        """Drop every page outside ``retained``."""
        self._pages = [held if held in retained else None for held in self._pages]

    def make_room(self, page: int, retained: Collection[int]) -> int:
        """Drop every page outside ``retained``; give ``page`` the lowest free slot."""
        self.keep(retained)
        if page not in self._pages:
            if None not in self._pages:
                raise ValueError(
                    f"no slot is free for page {page}: {len(self._pages)} slots hold "
                    f"{list(self._pages)}. The policy retains more pages than its capacity says; "
                    f"raise its capacity."
                )
            self._pages[self._pages.index(None)] = page
        return self.slot(page)

    def load(self, pages: Iterable[int | None]) -> None:
        """Take over the pages of another table with as many slots."""
        pages = list(pages)
        assert len(pages) == len(self._pages)
        self._pages = pages

    def clear(self) -> None:
        """Free every slot."""
        self._pages = [None] * len(self._pages)
