//! `rcrun checkpoint`, and the flags that `restore` shares with it.

use std::path::{Path, PathBuf};

use rcrun_runtime::checkpoint::{CgroupMode, CheckpointOptions, CriuOptions, PageServer};
use rcrun_runtime::container::absolute;
use rcrun_runtime::error::{Context, Error, ErrorKind, Result};

use super::container::given;
use crate::settings::Settings;

/// Flags of both verbs.
#[derive(Debug, clap::Args)]
pub(super) struct CriuFlags {
    /// path for criu image files
    #[arg(long, value_name = "string")]
    image_path: Option<PathBuf>,
    /// path for saving work files and logs
    #[arg(long, value_name = "string")]
    work_path: Option<PathBuf>,
    /// allow open tcp connections
    #[arg(long)]
    tcp_established: bool,
    /// allow external unix sockets
    #[arg(long)]
    ext_unix_sk: bool,
    /// allow shell jobs
    #[arg(long)]
    shell_job: bool,
    /// use userfaultfd to lazily restore memory pages
    #[arg(long)]
    lazy_pages: bool,
    /// handle file locks, for safety
    #[arg(long)]
    file_locks: bool,
    /// cgroups mode: soft|full|strict|ignore (default: soft)
    #[arg(long, value_name = "string", value_parser = cgroup_mode)]
    manage_cgroups_mode: Option<CgroupMode>,
    /// create a namespace, but don't restore its properties
    #[arg(long, value_name = "string")]
    empty_ns: Vec<String>,
    /// enable auto deduplication of memory images
    #[arg(long)]
    auto_dedup: bool,
}

impl CriuFlags {
    /// The library's options.
    pub(super) fn options(self, settings: &Settings) -> Result<CriuOptions> {
        if let Some(other) = self.empty_ns.iter().find(|name| *name != "network") {
            return Err(Error::invalid(format!(
                "namespace {other:?} is not supported"
            )));
        }
        let image_path = given(self.image_path).unwrap_or_else(|| PathBuf::from("checkpoint"));
        Ok(CriuOptions {
            criu: settings.criu.clone(),
            image_path: absolute(&image_path)?,
            work_path: given(self.work_path)
                .map(|path| absolute(&path))
                .transpose()?,
            tcp_established: self.tcp_established,
            tcp_close: false,
            external_unix_sockets: self.ext_unix_sk,
            shell_job: self.shell_job,
            file_locks: self.file_locks,
            cgroup_mode: self.manage_cgroups_mode.unwrap_or_default(),
            empty_network: true,
            auto_dedup: self.auto_dedup,
            lazy_pages: self.lazy_pages,
            ghost_limit: None,
        })
    }
}

fn cgroup_mode(text: &str) -> Result<CgroupMode, String> {
    match text {
        "" | "soft" => Ok(CgroupMode::Soft),
        "full" => Ok(CgroupMode::Full),
        "strict" => Ok(CgroupMode::Strict),
        "ignore" => Ok(CgroupMode::Ignore),
        _ => Err("must be one of soft, full, strict, ignore".to_owned()),
    }
}

/// checkpoint a running container
///
/// The checkpoint command saves the state of the container instance.
#[derive(Debug, clap::Parser)]
#[command(name = "checkpoint", disable_help_flag = true, verbatim_doc_comment)]
pub(crate) struct Checkpoint {
    #[command(flatten)]
    criu: CriuFlags,
    /// path for previous criu image files in pre-dump
    #[arg(long, value_name = "string")]
    parent_path: Option<PathBuf>,
    /// leave the process running after checkpointing
    #[arg(long)]
    leave_running: bool,
    /// skip in-flight tcp connections
    #[arg(long)]
    tcp_skip_in_flight: bool,
    /// allow one to link unlinked files back when possible
    #[arg(long)]
    link_remap: bool,
    /// criu writes \0 to this FD once lazy-pages is ready
    #[arg(long, value_name = "int", default_value_t = -1)]
    status_fd: i32,
    /// ADDRESS:PORT of the page server
    #[arg(long, value_name = "string")]
    page_server: Option<String>,
    /// dump container's memory information only, leave the container running after this
    #[arg(long)]
    pre_dump: bool,
    id: String,
}

impl crate::verbs::Run for Checkpoint {
    fn run(self, settings: &Settings) -> Result<u8> {
        let common = self.criu.options(settings)?;
        let parent_path = given(self.parent_path);
        let page_server = self.page_server.filter(|text| !text.is_empty());
        let options = CheckpointOptions {
            common,
            parent_path,
            leave_running: self.leave_running,
            tcp_skip_in_flight: self.tcp_skip_in_flight,
            link_remap: self.link_remap,
            status_fd: (self.status_fd >= 0).then_some(self.status_fd),
            page_server: page_server.as_deref().map(self::page_server).transpose()?,
            pre_dump: self.pre_dump,
        };
        let parent_path = options.parent_path.as_deref();
        prepare_images(&options.common.image_path, parent_path)?;
        settings.runtime.checkpoint(&self.id, &options)?;
        Ok(0)
    }
}

/// Makes the image directory and looks whether the earlier dump is where it should be.
fn prepare_images(images: &Path, parent: Option<&Path>) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let mut builder = std::fs::DirBuilder::new();
    builder
        .recursive(true)
        .mode(0o700)
        .create(images)
        .context(|| format!("cannot make image directory {}", images.display()))?;
    let Some(parent) = parent else { return Ok(()) };
    if parent.is_absolute() {
        return Err(Error::invalid("--parent-path must be relative"));
    }
    let parent = images.join(parent);
    let found = parent
        .metadata()
        .context(|| format!("invalid --parent-path: {}", parent.display()))?;
    if !found.is_dir() {
        let message = format!(
            "invalid --parent-path: {}: not a directory",
            parent.display()
        );
        return Err(Error::new(ErrorKind::InvalidInput, message));
    }
    Ok(())
}

fn page_server(text: &str) -> Result<PageServer> {
    let usage = || Error::invalid("Use --page-server ADDRESS:PORT to specify page server");
    let (address, port) = text.rsplit_once(':').ok_or_else(usage)?;
    let bracketed = address
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'));
    if address.is_empty() || port.is_empty() || (bracketed.is_none() && address.contains(':')) {
        return Err(usage());
    }
    let port = port
        .parse()
        .map_err(|_| Error::invalid("Invalid port number"))?;
    Ok(PageServer {
        address: bracketed.unwrap_or(address).to_owned(),
        port,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_servers() {
        for (text, address, port) in [("h:1", "h", 1), ("[::1]:27", "::1", 27)] {
            let expected = PageServer {
                address: address.into(),
                port,
            };
            assert_eq!(page_server(text).unwrap(), expected);
        }
        for (text, message) in [
            ("h", "Use --page-server ADDRESS:PORT to specify page server"),
            (
                ":1",
                "Use --page-server ADDRESS:PORT to specify page server",
            ),
            (
                "h:",
                "Use --page-server ADDRESS:PORT to specify page server",
            ),
            (
                "::1:2",
                "Use --page-server ADDRESS:PORT to specify page server",
            ),
            ("h:x", "Invalid port number"),
            ("h:70000", "Invalid port number"),
        ] {
            assert_eq!(
                page_server(text).unwrap_err().to_string(),
                message,
                "{text}"
            );
        }
    }
}
