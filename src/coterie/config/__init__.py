"""Layer 0: strict settings objects and the errors a user sees. Imports neither torch nor transformers."""

from coterie.config.base import Settings, apply_overrides, suggest
from coterie.config.errors import CheckpointError, ConfigError, CoterieError, DataError, TrainingError
from coterie.config.model import (
    AttentionConfig,
    BalanceConfig,
    BlockConfig,
    ClampedConfig,
    FeedForwardConfig,
    MLAConfig,
    ModelConfig,
    MoEConfig,
    RopeConfig,
    RopeScaling,
    RouterConfig,
    TemperatureConfig,
)

__all__ = [
    "AttentionConfig",
    "BalanceConfig",
    "BlockConfig",
    "CheckpointError",
    "ClampedConfig",
    "ConfigError",
    "CoterieError",
    "DataError",
    "FeedForwardConfig",
    "MLAConfig",
    "MoEConfig",
    "ModelConfig",
    "RopeConfig",
    "RopeScaling",
    "RouterConfig",
    "Settings",
    "TemperatureConfig",
    "TrainingError",
    "apply_overrides",
    "suggest",
]
