"""Images that cannot be read or decoded: which, why, and how many of them a run bears."""

from __future__ import annotations

from collections.abc import Iterable

from inceptionctl.errors import DataError

_NAMED = 5


class BadImages:
    """What was found so far. With `most` 0, as for an evaluation, the first one is an error."""

    def __init__(self, most: int = 0) -> None:
        self.most = most
        self._reasons: dict[str, str] = {}
        self._fresh: list[tuple[str, str]] = []

    def __len__(self) -> int:
        """Number of different images."""
        return len(self._reasons)

    def __contains__(self, name: str) -> bool:
        """Whether an image was bad before; it may do another time, when another part of it is wanted."""
        return name in self._reasons

    def note(self, name: str, reason: str) -> None:
        """Remember an image that was found here."""
        if name not in self._reasons:
            self._reasons[name] = reason
            self._fresh.append((name, reason))

    def add(self, found: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
        """Take over (name, reason) pairs that were found elsewhere, or earlier; gives those that were not known."""
        fresh = [(name, reason) for name, reason in dict(found).items() if name not in self._reasons]
        self._reasons.update(fresh)
        return fresh

    @property
    def num_fresh(self) -> int:
        """How many `take_fresh` would give."""
        return len(self._fresh)

    def take_fresh(self) -> list[tuple[str, str]]:
        """What `note` was told since this was last asked."""
        fresh, self._fresh = self._fresh, []
        return fresh

    def check(self, root: object) -> None:
        """Raise DataError, which names some, when there are more than `most`."""
        if len(self) <= self.most:
            return
        named = [f"{name}: {reason}" for name, reason in list(self._reasons.items())[:_NAMED]]
        more = f"\nand {len(self) - _NAMED} more" if len(self) > _NAMED else ""
        hint = f"`inceptionctl data check {root}` lists every file that cannot be read"
        if self.most:
            what = f"{len(self)} images cannot be used, and data.max_bad_images is {self.most}:\n"
            raise DataError(what + "\n".join(named) + more, f"{hint}; or raise data.max_bad_images")
        one = len(self) == 1
        raise DataError(
            f"cannot decode {named[0]}" if one else f"cannot decode {len(self)} images:\n" + "\n".join(named) + more, hint
        )
