//! What is reported of a container's configuration. Pure.

use std::collections::BTreeMap;
use std::path::PathBuf;

use rcrun_image::accounts::Identity;

use super::{Node, process, resources as limits};
use crate::proto::v1;

/// `ContainerStatus.user`.
pub fn user(identity: &Identity) -> v1::ContainerUser {
    let groups = identity.additional.iter();
    v1::ContainerUser {
        linux: Some(v1::LinuxContainerUser {
            uid: identity.uid.into(),
            gid: identity.gid.into(),
            supplemental_groups: groups.map(|gid| i64::from(*gid)).collect(),
        }),
    }
}

/// `ContainerStatus.mounts`: as asked for; of images, by index, also where they are.
pub fn mounts(config: &v1::ContainerConfig, images: &BTreeMap<usize, PathBuf>) -> Vec<v1::Mount> {
    let mut mounts = config.mounts.clone();
    for (index, path) in images {
        if let Some(mount) = mounts.get_mut(*index).filter(|mount| mount.image.is_some()) {
            mount.host_path = path.to_string_lossy().into_owned();
        }
    }
    mounts
}

/// `ContainerStatus.resources`: as they hold.
pub fn resources(asked: &v1::LinuxContainerResources, node: &Node) -> v1::ContainerResources {
    let mut linux = asked.clone();
    linux.memory_swap_limit_in_bytes = limits::swap_limit(asked, node).unwrap_or(0);
    linux
        .hugepage_limits
        .retain(|limit| limits::counts(limit, node));
    let score = limits::oom_score(asked.oom_score_adj, node);
    linux.oom_score_adj = score.map_or(asked.oom_score_adj, i64::from);
    v1::ContainerResources {
        linux: Some(linux),
        windows: None,
    }
}

/// `ContainerStatus.stop_signal`.
pub fn stop_signal(number: i32) -> v1::Signal {
    process::signal_of(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users() {
        let identity = Identity {
            uid: 1000,
            gid: 1001,
            additional: vec![1001, 2000],
        };
        let linux = user(&identity).linux.unwrap();
        assert_eq!((linux.uid, linux.gid), (1000, 1001));
        assert_eq!(linux.supplemental_groups, [1001, 2000]);
    }

    #[test]
    fn mounts_of_images_have_a_place() {
        let image = v1::Mount {
            image: Some(v1::ImageSpec::default()),
            ..v1::Mount::default()
        };
        let bound = v1::Mount {
            host_path: "/a".into(),
            ..v1::Mount::default()
        };
        let config = v1::ContainerConfig {
            mounts: vec![bound, image],
            ..v1::ContainerConfig::default()
        };
        let places = BTreeMap::from([(0, "/x".into()), (1, "/y".into()), (7, "/z".into())]);
        let found = mounts(&config, &places);
        let paths: Vec<_> = found.iter().map(|mount| mount.host_path.as_str()).collect();
        assert_eq!(paths, ["/a", "/y"]);
    }

    #[test]
    fn limits_that_hold() {
        let asked = v1::LinuxContainerResources {
            cpu_shares: 2,
            memory_limit_in_bytes: 1 << 26,
            oom_score_adj: -997,
            hugepage_limits: vec![v1::HugepageLimit {
                page_size: "2MB".into(),
                limit: 0,
            }],
            ..v1::LinuxContainerResources::default()
        };
        let bare = resources(&asked, &Node::default()).linux.unwrap();
        assert_eq!(bare.cpu_shares, 2);
        assert_eq!(bare.memory_swap_limit_in_bytes, 0);
        assert!(bare.hugepage_limits.is_empty());
        let node = Node {
            swap: true,
            huge_pages: vec!["2MB".into()],
            least_oom_score: Some(-500),
            ..Node::default()
        };
        let full = resources(&asked, &node).linux.unwrap();
        assert_eq!(full.memory_swap_limit_in_bytes, 1 << 26);
        assert_eq!((full.hugepage_limits.len(), full.oom_score_adj), (1, -500));
    }

    #[test]
    fn signals() {
        assert_eq!(stop_signal(15), v1::Signal::Sigterm);
        assert_eq!(stop_signal(37), v1::Signal::Sigrtminplus3);
    }
}
