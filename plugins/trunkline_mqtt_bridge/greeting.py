"""Where another broker is, and how to introduce ourselves there."""

from __future__ import annotations

from trunkline.links import WhereTo, read_password
from trunkline_mqtt.packets import MQTT_3_1_1, MQTT_5, Connect
from trunkline_mqtt.properties import NO_PROPERTIES, Properties
from trunkline_mqtt_bridge.addresses import parse_url
from trunkline_mqtt_bridge.settings import UpstreamSettings

__all__ = ["Greeter"]


class Greeter:
    """For one table ``[bridge.mqtt.brokers.NAME]``."""

    def __init__(self, settings: UpstreamSettings, client_id: str) -> None:
        self._settings = settings
        self._client_id = client_id
        self._url = parse_url(settings.url)
        self.where = WhereTo(self._url.host, self._url.port, self._url.is_tls, str(self._url))

    async def packet(self, *, leaves: bool = False) -> Connect:
        """The CONNECT. Raises LinkFailed: the password cannot be read.

        Args:
          leaves: the broker forgets what it kept; else it keeps its session while this side is away.
        """
        settings, password = self._settings, self._url.password
        if settings.password_file:
            password = await read_password(settings.password_file)
        properties = NO_PROPERTIES
        if settings.version == "5":
            properties = Properties(
                session_expiry_s=0 if leaves else settings.session_expiry_s,
                receive_maximum=settings.receive_maximum,
                maximum_packet_size=settings.max_packet_bytes,
            )
        return Connect(
            self._client_id,
            clean_start=leaves,
            keep_alive=settings.keep_alive_s,
            user_name=self._url.user,
            password=None if password is None else password.encode(),
            protocol_level=MQTT_5 if settings.version == "5" else MQTT_3_1_1,
            properties=properties,
        )
