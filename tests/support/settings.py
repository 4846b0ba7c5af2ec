"""Settings of tests."""

from typing import Any

from pydantic_settings import BaseSettings, PydanticBaseSettingsSource
from typing_extensions import override

from bamboo_gateway.settings import Settings


class _GivenSettings(Settings):
    @classmethod
    @override
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return (init_settings,)


def given_settings(**values: Any) -> Settings:
    """Return settings with these values, and the defaults: nothing of the environment.

    Looking for each setting in the environment takes 4 ms, and thousands of tests make settings.
    """
    return _GivenSettings(**values)
