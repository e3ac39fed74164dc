//! What mounts of type `cgroup` show: the container's own directory in each hierarchy; on v2 without
//! a cgroup namespace the whole tree.

use std::path::Path;

use super::hierarchy::{self, ROOT};
use super::{Cgroup, Hierarchy};
use crate::error::Result;
use crate::plan::{c_path, c_string};
use crate::rootfs::cgroup::{Hierarchy as Shown, View};

impl Cgroup {
    /// Lays out the hierarchies for mounting; `namespaced` when the container has a cgroup namespace.
    pub fn mount_view(&self, namespaced: bool) -> Result<View> {
        let mut view = View {
            namespaced,
            ..View::default()
        };
        if self.hierarchy == Hierarchy::Unified {
            // Without a cgroup namespace /proc/self/cgroup counts from the root: so does the mount.
            let shown = if namespaced {
                self.unified()
            } else {
                Some(Path::new(ROOT))
            };
            view.unified = shown.map(c_path).transpose()?;
            return Ok(view);
        }
        for mounted in &hierarchy::view()?.mounted {
            let first = mounted
                .controllers
                .first()
                .map(String::as_str)
                .unwrap_or_default();
            let (Some(directory), Some(name)) = (self.paths.get(first), mounted.point.file_name())
            else {
                continue;
            };
            if first.is_empty() {
                // cgroup2 beside v1 holds no controllers; containers are shown v1 alone.
                continue;
            }
            let links = mounted
                .controllers
                .iter()
                .filter(|c| c.as_str() != name && !c.contains('='));
            view.hierarchies.push(Shown {
                name: c_path(name.as_ref())?,
                links: links.map(|link| c_string(link)).collect::<Result<_>>()?,
                options: c_string(&mounted.controllers.join(","))?,
                directory: c_path(directory)?,
            });
        }
        Ok(view)
    }
}
