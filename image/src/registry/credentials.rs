use std::fmt;
use serde::Deserialize;
/// x
#[derive(Clone, Deserialize)]
pub struct Secret(String);
impl Secret {
    /// x
    pub fn expose(&self) -> &str { &self.0 }
}
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str("[secret]") }
}
