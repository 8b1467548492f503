"""Layer 0: strict settings objects and the errors a user sees. Imports neither torch nor transformers."""

from coterie.config.adapter import (
    ADAPTED_GROUPS,
    AdaptedGroup,
    AdapterConfig,
    RankRule,
    Treatment,
    effective_rank,
)
from coterie.config.base import Settings, apply_overrides, suggest
from coterie.config.errors import CheckpointError, ConfigError, CoterieError, DataError, TrainingError
from coterie.config.feed_forward import (
    BalanceConfig,
    ClampedConfig,
    FeedForwardConfig,
    MoEConfig,
    RouterConfig,
)
from coterie.config.model import AttentionConfig, BlockConfig, MLAConfig, ModelConfig
from coterie.config.positions import RopeConfig, RopeScaling, TemperatureConfig
from coterie.config.precision import Precision
from coterie.config.selection import ExpertSelection

__all__ = [
    "ADAPTED_GROUPS",
    "AdaptedGroup",
    "AdapterConfig",
    "AttentionConfig",
    "BalanceConfig",
    "BlockConfig",
    "CheckpointError",
    "ClampedConfig",
    "ConfigError",
    "CoterieError",
    "DataError",
    "ExpertSelection",
    "FeedForwardConfig",
    "MLAConfig",
    "MoEConfig",
    "ModelConfig",
    "Precision",
    "RankRule",
    "RopeConfig",
    "RopeScaling",
    "RouterConfig",
    "Settings",
    "TemperatureConfig",
    "TrainingError",
    "Treatment",
    "apply_overrides",
    "effective_rank",
    "suggest",
]
