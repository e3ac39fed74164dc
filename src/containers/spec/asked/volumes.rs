//! Volumes that were asked for, and those of the image.

use rcrun_runtime::error::{Context, Error, Result};

use super::super::mounts::{self, Mount, Source, VolumeMount};
use super::Asked;

/// The most directories that an image may declare as volumes.
const MOST_VOLUMES: usize = 256;

impl Asked {
    /// Adds the volumes that an image declares where nothing else is mounted, and gives names to those
    /// that have none.
    pub(crate) fn complete_volumes(
        &mut self,
        of_image: &[String],
        name: &mut dyn FnMut() -> Result<String>,
    ) -> Result<()> {
        if of_image.len() > MOST_VOLUMES {
            let text = format!("the image has more than {MOST_VOLUMES} volumes");
            return Err(Error::invalid(text));
        }
        for path in of_image {
            let mount =
                mounts::of_image(path).context(|| format!("the image's volume {path:?}"))?;
            let taken = |other: &Mount| other.destination == mount.destination;
            if !self.mounts.iter().any(taken) {
                self.mounts.push(mount);
            }
        }
        self.anonymous.clear();
        for mount in &mut self.mounts {
            if let Source::Volume(volume) = &mut mount.source
                && volume.name.is_none()
            {
                let name = name()?;
                self.anonymous.insert(name.clone());
                volume.name = Some(name);
            }
        }
        Ok(())
    }

    /// The volumes, which have names by now.
    pub(crate) fn volumes(&self) -> Vec<VolumeMount<'_>> {
        let mut found = Vec::new();
        for mount in &self.mounts {
            if let Source::Volume(volume) = &mount.source
                && let Some(name) = &volume.name
            {
                found.push(VolumeMount {
                    name,
                    destination: &mount.destination,
                    anonymous: self.anonymous.contains(name),
                    copy: volume.copy,
                    labels: &volume.labels,
                });
            }
        }
        found
    }
}
