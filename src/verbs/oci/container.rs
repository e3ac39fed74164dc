//! Flags shared by the verbs that make a container.

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

use rcrun_runtime::container::{CreateOptions, absolute};
use rcrun_runtime::error::{Context, Error, Result};
use rcrun_runtime::sys::process;
use rustix::io::Errno;

/// `create` and `run`.
#[derive(Debug, clap::Args)]
pub(super) struct ContainerFlags {
    /// path to the root of the bundle directory, defaults to the current directory
    #[arg(long, short, value_name = "string")]
    bundle: Option<PathBuf>,
    /// path to the configuration, defaults to config.json in the bundle directory (as crun has it)
    #[arg(long, short = 'f', value_name = "string")]
    config: Option<PathBuf>,
    /// path to an AF_UNIX socket which will receive a file descriptor referencing the master end of the console's pseudoterminal
    #[arg(long, value_name = "string")]
    console_socket: Option<PathBuf>,
    /// path to an AF_UNIX socket which will receive a file descriptor referencing the init process
    #[arg(long, value_name = "string")]
    pidfd_socket: Option<PathBuf>,
    /// specify the file to write the process id to
    #[arg(long, value_name = "string")]
    pid_file: Option<PathBuf>,
    /// do not use pivot root to jail process inside rootfs.  This should be used whenever the rootfs is on top of a ramdisk
    #[arg(long)]
    no_pivot: bool,
    /// do not create a new session keyring for the container.  This will cause the container to inherit the calling processes session key
    #[arg(long)]
    no_new_keyring: bool,
    /// Pass N additional file descriptors to the container (stdio + $LISTEN_FDS + N in total)
    #[arg(long, value_name = "int", default_value_t = 0)]
    preserve_fds: u32,
    /// descriptor of a mount that is attached nowhere: the root filesystem, attached onto root.path
    #[arg(long, value_name = "int", hide = true)]
    root_fd: Option<i32>,
}

impl ContainerFlags {
    /// Whether `--bundle` says where the bundle is.
    pub(super) fn has_bundle(&self) -> bool {
        let path = self.bundle.as_ref();
        path.is_some_and(|path| !path.as_os_str().is_empty())
    }

    /// As if `--bundle` had been given.
    pub(super) fn with_bundle(self, path: PathBuf) -> Self {
        let bundle = Some(path);
        Self { bundle, ..self }
    }

    /// The library's options; paths that must survive a change of directory are absolute. A mere
    /// `config.json` is, as for crun, the bundle's, not one of the current directory.
    pub(super) fn options(self) -> Result<CreateOptions> {
        Ok(CreateOptions {
            bundle: bundle(self.bundle)?,
            config: given(self.config)
                .filter(|path| path.as_os_str() != rcrun_runtime::spec::load::CONFIG)
                .map(|path| absolute(&path))
                .transpose()?,
            pid_file: given(self.pid_file),
            console_socket: given(self.console_socket),
            pidfd_socket: given(self.pidfd_socket),
            root: self
                .root_fd
                .map(|number| root(number, self.preserve_fds))
                .transpose()?,
            preserve_fds: self.preserve_fds,
            no_pivot: self.no_pivot,
            no_new_keyring: self.no_new_keyring,
            ..CreateOptions::default()
        })
    }
}

/// The mount that the caller handed down.
fn root(number: i32, preserved: u32) -> Result<Arc<OwnedFd>> {
    let first = 3 + i32::try_from(preserved).unwrap_or(i32::MAX - 3);
    if number < first {
        return Err(Error::invalid(format!(
            "--root-fd {number}: that descriptor is the container's"
        )));
    }
    let take = || -> Result<OwnedFd, Errno> {
        let handed = process::borrow_inherited(number)?;
        process::set_cloexec(number, true)?;
        rustix::io::fcntl_dupfd_cloexec(handed, first)
    };
    take()
        .map(Arc::new)
        .context(|| format!("--root-fd {number}: cannot use that descriptor"))
}

/// A path that was given; engines pass empty ones for absent.
pub(super) fn given(path: Option<PathBuf>) -> Option<PathBuf> {
    path.filter(|path| !path.as_os_str().is_empty())
}

/// The absolute bundle path as the kernel names it, links resolved.
pub(super) fn bundle(path: Option<PathBuf>) -> Result<PathBuf> {
    let path = given(path).unwrap_or_else(|| PathBuf::from("."));
    let text = || format!("chdir {}", path.display());
    absolute(&path)?.canonicalize().context(text)
}
