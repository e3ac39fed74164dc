//! x
/// x
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct Stats {}
