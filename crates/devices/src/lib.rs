//! Device models, each with its saved state beside it
