//! What mounts of type `cgroup` show: the container's own directory in each hierarchy; on v2 without
//! a cgroup namespace the whole tree.

use std::path::{Path, PathBuf};

use super::hierarchy::{self, Mounted, ROOT};
use super::{Cgroup, Hierarchy};
use crate::error::Result;
use crate::plan::{c_path, c_string};
use crate::rootfs::cgroup::{Hierarchy as Shown, View};

/// The cgroup that a container without rights, or without a cgroup, has stayed in: the caller's.
fn callers(mounted: &Mounted) -> Option<PathBuf> {
    Some(mounted.point.join(mounted.own.as_ref()?))
}

impl Cgroup {
    /// What a mount on a v2 host shows.
    fn shown(&self, namespaced: bool) -> Result<Option<PathBuf>> {
        if !namespaced {
            // /proc/self/cgroup counts from the root: so does the mount.
            return Ok(Some(PathBuf::from(ROOT)));
        }
        let stayed = self.is_none() || self.rootless && self.unit.is_none() && !self.exists();
        if !stayed {
            return Ok(self.unified().map(Path::to_owned));
        }
        Ok(hierarchy::view()?.mounted.first().and_then(callers))
    }

    /// Lays out the hierarchies for mounting; `namespaced` when the container has a cgroup namespace.
    pub fn mount_view(&self, namespaced: bool) -> Result<View> {
        let mut view = View {
            namespaced,
            ..View::default()
        };
        let hierarchy = match self.hierarchy {
            Hierarchy::None => hierarchy::view()?.hierarchy,
            known => known,
        };
        if hierarchy == Hierarchy::Unified {
            view.unified = self.shown(namespaced)?.as_deref().map(c_path).transpose()?;
            return Ok(view);
        }
        for mounted in &hierarchy::view()?.mounted {
            let first = mounted
                .controllers
                .first()
                .map(String::as_str)
                .unwrap_or_default();
            let directory = match (self.paths.get(first), callers(mounted)) {
                (Some(path), Some(own)) if self.rootless && !path.exists() => own,
                (Some(path), _) => path.clone(),
                (None, Some(own)) if self.is_none() => own,
                (None, _) => continue,
            };
            let Some(name) = mounted.point.file_name() else {
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
                directory: c_path(&directory)?,
            });
        }
        Ok(view)
    }
}
