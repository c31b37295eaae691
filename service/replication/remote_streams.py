"""Other replicas' effects on the streams that are here: they generate some, adopt some, and end some."""

from __future__ import annotations

from service.dialects.events import Dialect
from service.errors import RillError
from service.protocol.frames import Submit
from service.streams.admission import Ticket
from service.streams.registry import Streams
from service.streams.stream import Stream
from service.streams.table import Role


class RemoteStreams:
    """Moves of table.TABLE that a store causes."""

    def __init__(self, streams: Streams) -> None:
        self.streams, self._table = streams, streams.table

    def __repr__(self) -> str:
        return f"<RemoteStreams {self._table.count(Role.FOLLOWED)} followed>"

    def remake(
        self, submit: Submit, dialect: Dialect, *, route: str, tenant: str, grace_s: float, arrived_at: float
    ) -> Stream:
        """Another replica's stream, without its log yet."""
        stream = Stream(
            submit=submit,
            dialect=dialect,
            ticket=self.streams.admission.spectator(),
            route=route,
            tenant=tenant,
            arrived_at=arrived_at,
            grace_s=grace_s,
            gap=self.streams.observer.gap,
        )
        stream.migrated = True
        return stream

    def followed(self, id: str) -> Stream | None:
        """The stream of this id if another replica makes it and it is read here."""
        return self._table.find(id) if self._table.role(id) is Role.FOLLOWED else None

    def read_here(self) -> list[str]:
        """Other replicas' streams that have readers here."""
        return [stream.id for stream in self._table.in_role(Role.FOLLOWED) if stream.log.readers]

    def follow(self, stream: Stream) -> None:
        """Another replica owns it, and it can be read here."""
        stream.log.is_durable = True
        self._table.move(stream, "follow")
        if not stream.log.readers:
            self.streams.wait_for_reader(stream)

    def ended(self, stream: Stream) -> None:
        """It was followed, or would have been; it can be read here for a while yet."""
        self._table.move(stream, "end")

    def admit(self, tenant: str) -> Ticket:
        """A ticket for a stream to be adopted. Raises a Refused."""
        return self.streams.admission.admit(tenant, is_owed=True)

    def adopt(self, stream: Stream, ticket: Ticket, error: RillError | None = None) -> None:
        """We own it from now on: the engine continues after what its log holds; or it ends here, with this error."""
        self._table.move(stream, "adopt")
        stream.take_over(ticket, self.streams.clock())
        if error is not None:
            self.streams.live.fail(stream, error)
            return
        if not stream.log.readers:
            self.streams.wait_for_reader(stream)
        self.streams.live.add(stream)

    def give_up(self, stream: Stream) -> None:
        """Another replica owns it: it is only followed here."""
        if self._table.made(stream.id) is stream:
            self._table.move(stream, "give up")
            stream.give_up(self.streams.clock())
            self.follow(stream)
        self.streams.live.let_go(stream.id)

    def forget(self, stream: Stream) -> None:
        """Our copy differs from other replicas': its readers must reconnect."""
        self.streams.cut(stream)
        self._table.move(stream, "drop")
        self.streams.keys.forget(stream.id)

    def cut_followed(self) -> None:
        """Disconnect the readers of followed streams: they resume elsewhere."""
        for stream in self._table.in_role(Role.FOLLOWED):
            self.streams.cut(stream)

    def is_read(self, id: str) -> None:
        """It has a reader elsewhere."""
        if (stream := self._table.made(id)) is not None and not stream.log.readers:
            self.streams.wait_for_reader(stream)
