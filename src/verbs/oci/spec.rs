//! `rcrun spec`.

use std::io::Write;
use std::path::PathBuf;

use rcrun_runtime::error::{Context, Error, ErrorKind};
use rcrun_runtime::spec::template;

use crate::settings::Settings;

/// create a new specification file
///
/// The spec command creates the new specification file named "config.json" for
/// the bundle. It is a starter file: its args run "sh", which the root filesystem
/// may not have. With --rootless it suits callers without privileges.
#[derive(Debug, clap::Parser)]
#[command(name = "spec", disable_help_flag = true, verbatim_doc_comment)]
pub(crate) struct Spec {
    /// path to the root of the bundle directory
    #[arg(long, short, value_name = "string")]
    bundle: Option<PathBuf>,
    /// generate a configuration for a rootless container
    #[arg(long)]
    rootless: bool,
}

impl crate::verbs::Run for Spec {
    fn run(self, _: &Settings) -> Result<u8, Error> {
        let bundle = super::container::bundle(self.bundle)?;
        let cgroup2 = has_only_cgroup2();
        let text = if self.rootless {
            let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
            template::rootless(cgroup2, user.as_raw(), group.as_raw())
        } else {
            template::root(cgroup2)
        };
        let path = bundle.join("config.json");
        let created = std::fs::File::create_new(&path);
        let mut file = match created {
            Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {
                let message = "File config.json exists. Remove it first";
                return Err(Error::new(ErrorKind::Exists, message));
            }
            other => other.context(|| format!("cannot create {}", path.display()))?,
        };
        file.write_all(text.as_bytes())
            .context(|| format!("cannot write {}", path.display()))?;
        Ok(0)
    }
}

/// Whether the machine has no cgroup v1 hierarchies.
fn has_only_cgroup2() -> bool {
    const CGROUP2_SUPER_MAGIC: i64 = 0x6367_7270;
    rustix::fs::statfs("/sys/fs/cgroup").is_ok_and(|fs| fs.f_type == CGROUP2_SUPER_MAGIC)
}
