//! Limits.

use serde_json::Value;

use super::Node;
use crate::proto::v1;
use crate::{Error, Result};

/// `linux.resources`, without devices.
pub fn resources(asked: &v1::LinuxContainerResources, node: &Node) -> Result<Value> {
    let _ = (asked, node);
    Err(Error::unsupported("limits are not decided yet"))
}

/// What holds after an update: what the update leaves open stays.
pub fn updated(
    old: &v1::LinuxContainerResources,
    new: &v1::LinuxContainerResources,
) -> v1::LinuxContainerResources {
    let _ = new;
    old.clone()
}
