//! x
/// x
#[derive(Debug)]
pub struct Watch {}
