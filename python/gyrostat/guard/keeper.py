"""The keeper: takes snapshots of the run when they are due, in memory and for the disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from gyrostat.guard.batches import BatchRegistry
from gyrostat.guard.policy import Policy
from gyrostat.guard.restarts import SnapshotFiles
from gyrostat.guard.snapshots import Pace, Snapshot, SnapshotRing
from gyrostat.guard.subject import Subject
from gyrostat.rules import check_weights

__all__ = ["Keeper"]


class Keeper:
    """Holds the snapshots of one run and takes new ones at a pace.

    Args:
        subject: The model and optimizer.
        registry: The batches that are to be handed out again after a rollback.
        policy: Pace, and how many are kept.
        folder: Where checkpoints go; None for snapshots in memory alone.
        proof: Clean steps after which a snapshot may go to the disk.

    Attributes:
        files: The snapshots on disk, if there are any.
        doubted: Whether the weights were found damaged when a snapshot was due.
    """

    def __init__(
        self,
        subject: Subject,
        registry: BatchRegistry,
        policy: Policy,
        folder: Path | None,
        proof: int,
    ) -> None:
        self._subject = subject
        self._registry = registry
        self._policy = policy
        self._ring = SnapshotRing(policy.snapshots_kept, policy.healthy_after)
        self._pace = Pace(policy.snapshot_share, policy.snapshot_every)
        self.files = None if folder is None else SnapshotFiles(folder, policy, subject, proof)
        self.doubted = False

    def __len__(self) -> int:
        return len(self._ring)

    @property
    def healthy(self) -> Snapshot | None:
        """The newest healthy snapshot; the oldest of all if none has proved itself so far."""
        return self._ring.healthy

    @property
    def is_due(self) -> bool:
        """Whether it is time for the next snapshot."""
        return self._ring.newest is None or self._pace.due()

    def step(self) -> None:
        """Says that one more step was made."""
        self._pace.step()

    def clean_step(self) -> None:
        """Says that a step went well."""
        self._ring.clean_step()
        if self.files is not None:
            self.files.clean_step()

    def bad_step(self) -> None:
        """Says that a step went badly."""
        self._ring.bad_step()
        if self.files is not None:
            self.files.bad_step()

    def take(
        self,
        step: int,
        position: int,
        rules: Callable[[], Mapping[str, Any]],
        mark: int | None,
        rest: Callable[[], dict[str, Any]],
    ) -> None:
        """Takes a snapshot, unless the weights are damaged: then they are :attr:`doubted`.

        Args:
            step: The step that is to come, by the guard's count.
            position: Steps of training that the weights have seen.
            rules: Gives the state of the detectors and rules.
            mark: The boundary between two batches, if the guard hands them out.
            rest: Gives what else a checkpoint holds.
        """
        with self._pace.taking():
            weights = dict(self._subject.weight_extremes())
            healthy = self._ring.healthy
            if check_weights(weights, weights if healthy is None else healthy.weights, step):
                self.doubted = True
                return
            to_disk = self._is_for_disk(step)
            # A run that is only observed never goes back: its weights' extremes are enough.
            state = self._subject.capture() if self._policy.act or to_disk else None
            if self.files is not None and to_disk:
                self.files.offer(step, {"subject": state, **rest()})
            held = state if self._policy.act else None
            self._ring.add(Snapshot(step, held, weights, rules(), position, mark))
        oldest = self._ring.oldest
        if oldest is not None and oldest.mark is not None:
            self._registry.forget_before(oldest.mark)

    def take_back(self, *, older: bool) -> Snapshot:
        """The snapshot to go back to, as :meth:`SnapshotRing.take_back` gives it."""
        return self._ring.take_back(older=older)

    def forget(self) -> None:
        """Drops the snapshots in memory, as those of another run."""
        self._ring = SnapshotRing(self._policy.snapshots_kept, self._policy.healthy_after)

    def _is_for_disk(self, step: int) -> bool:
        wanted = self.files is not None and self.files.wanted
        # Replayed batches would be fetched anew after a restart, with other random numbers.
        ready = wanted and not self._registry.is_replaying
        (all_ready,) = self._subject.all_of(ready, step=step)
        return all_ready
