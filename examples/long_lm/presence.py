# examples/long_lm/presence.py: who is gone when a call of torch.distributed fails, which itself names an address at best.
import threading
import time
from typing import Any

BEAT = 0.25  # seconds between two signs of life
SILENCE = 8 * BEAT  # without one for so long: gone; a call that holds Python's lock may swallow some


class Presence:
    """Each rank says in the store that it is there, until its process ends."""

    def __init__(self, store: Any, rank: int, ranks: int) -> None:
        self.store, self.rank, self.ranks = store, rank, ranks
        self.ended = threading.Event()
        store.delete_key(f"gave up/{rank}")  # of a run before this one that torchrun has started again
        self._beat(store, 0)
        threading.Thread(target=self._keep_beating, args=(store.clone(),), daemon=True).start()

    def _beat(self, store: Any, number: int) -> None:
        store.set(f"beat/{self.rank}", str(number))

    def _keep_beating(self, store: Any) -> None:
        number = 0
        while not self.ended.wait(BEAT):
            number += 1
            try:
                self._beat(store, number)
            except RuntimeError:  # the store is gone, which the next call of the main thread will say
                return

    def give_up(self, reason: str) -> None:
        """For those that will miss this rank."""
        self.ended.set()
        try:
            self.store.set(f"gave up/{self.rank}", reason)
        except RuntimeError:
            return

    def missing(self) -> str | None:
        """Which ranks are gone, or gave up; None where all answer."""
        try:
            before = self._beats()
            time.sleep(SILENCE)
            silent = [rank for rank, beat in enumerate(self._beats()) if beat == before[rank]]
            reasons = {rank: self.store.get(f"gave up/{rank}").decode() for rank in silent if self.store.check([f"gave up/{rank}"])}
        except RuntimeError:
            return "rank 0 is gone, and with it the store in which ranks say that they are there"
        gone = [rank for rank in silent if rank not in reasons]
        if gone:
            return f"rank{'s'[: len(gone) - 1]} {', '.join(map(str, gone))} {'is' if len(gone) == 1 else 'are'} gone"
        return "; ".join(f"rank {rank} gave up: {reason}" for rank, reason in reasons.items()) or None

    def _beats(self) -> list[bytes]:
        return [self.store.get(f"beat/{rank}") for rank in range(self.ranks)]
