//! Plugins that are installed: found in their directory, started with a socket, ended with it.
//!
//! A plugin is a program named `NN-NAME`. It gets its socket as descriptor 3 and three variables, nothing else of our
//! environment, and no streams. Its configuration, if there is one, is sent when it has registered.

use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Stdio;

use command_fds::{CommandFdExt, FdMapping};
use rcrun_error::{Context, Error, ErrorKind, Result};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::limits;
use crate::plugin::{Ending, Identity};

/// The descriptor that plugins expect.
const SOCKET: i32 = 3;

/// An installed plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) identity: Identity,
    pub(crate) configuration: String,
}

/// All programs of the directory, in order. A program with another name is an error: whoever put it there wants it to
/// run.
pub(crate) fn discover(plugins: &Path, configurations: &Path) -> Result<Vec<Found>> {
    let entries = match std::fs::read_dir(plugins) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries,
    };
    let cannot = || format!("cannot list the NRI plugins of {}", plugins.display());
    let mut found = Vec::new();
    for entry in entries.context(cannot)? {
        let entry = entry.context(cannot)?;
        let path = entry.path();
        // As links say: plugins may be installed elsewhere. What has gone meanwhile is none.
        let Ok(there) = std::fs::metadata(&path) else {
            continue;
        };
        if !there.is_file() || there.permissions().mode() & 0o111 == 0 {
            continue;
        }
        let name = entry.file_name();
        let identity = name.to_str().and_then(|name| name.split_once('-'));
        let identity = identity.ok_or_else(|| Error::invalid("it is not named NN-NAME"));
        let identity = identity
            .and_then(|(index, name)| Identity::new(index, name))
            .context(|| format!("cannot start NRI plugin {}", path.display()))?;
        let configuration = configuration(configurations, &identity)?;
        found.push(Found {
            identity,
            configuration,
        });
        if found.len() > limits::PLUGINS {
            let words = format!("there are more than {}", limits::PLUGINS);
            return Err(Error::new(ErrorKind::Exhausted, words)).context(cannot);
        }
    }
    found.sort_by_key(|found| found.identity.to_string());
    Ok(found)
}

/// `NN-NAME.conf`, else `NAME.conf`, else nothing.
fn configuration(directory: &Path, identity: &Identity) -> Result<String> {
    for name in [
        format!("{identity}.conf"),
        format!("{}.conf", identity.name),
    ] {
        let path = directory.join(name);
        let cannot = || format!("cannot read the NRI configuration {}", path.display());
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file: File = match rustix::fs::open(&path, flags, Mode::empty()) {
            Err(Errno::NOENT) => continue,
            file => file.context(cannot)?.into(),
        };
        if !file.metadata().context(cannot)?.is_file() {
            return Err(Error::invalid("it is no regular file")).context(cannot);
        }
        let mut text = String::new();
        let mut limited = file.take(limits::CONFIGURATION + 1);
        limited.read_to_string(&mut text).context(cannot)?;
        if text.len() as u64 > limits::CONFIGURATION {
            let words = format!("it has more than {} bytes", limits::CONFIGURATION);
            return Err(Error::invalid(words)).context(cannot);
        }
        return Ok(text);
    }
    Ok(String::new())
}

/// Starts a plugin.
pub(crate) fn spawn(directory: &Path, identity: &Identity) -> Result<(UnixStream, Child)> {
    let path = directory.join(identity.to_string());
    start(&path, identity).context(|| format!("cannot start NRI plugin {}", path.display()))
}

fn start(path: &Path, identity: &Identity) -> Result<(UnixStream, Child)> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    let mut command = std::process::Command::new(path);
    command
        .env_clear()
        .env("NRI_PLUGIN_NAME", &identity.name)
        .env("NRI_PLUGIN_IDX", &identity.index)
        .env("NRI_PLUGIN_SOCKET", SOCKET.to_string())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .current_dir("/")
        // Signals of a terminal are for us.
        .process_group(0);
    command
        .fd_mappings(vec![FdMapping {
            parent_fd: OwnedFd::from(theirs),
            child_fd: SOCKET,
        }])
        .map_err(|error| Error::new(ErrorKind::Internal, error.to_string()))?;
    let child = Command::from(command).kill_on_drop(true).spawn()?;
    Ok((UnixStream::from_std(ours)?, child))
}

/// Stays with a plugin until it has ended: its connection and its process end together.
pub(crate) async fn attend(mut process: Child, ending: Ending, mut stop: watch::Receiver<bool>) {
    let status = tokio::select! {
        status = process.wait() => Some(status),
        () = ending.wait() => None,
        _ = stop.wait_for(|stop| *stop) => None,
    };
    if let Some(Ok(status)) = status {
        return ending.close(&format!("its process ended: {status}"));
    }
    // On stop it is told first; its connection ends with that.
    ending.wait().await;
    // A plugin that loses its connection ends by itself, or is ended.
    if timeout(limits::GRACE, process.wait()).await.is_err() {
        let _ = process.kill().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn program(path: &Path, mode: u32) {
        std::fs::write(path, "#!/bin/sh\n").unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn programs_are_found_with_their_configurations() {
        let dir = tempfile::tempdir().unwrap();
        let (plugins, conf) = (dir.path().join("plugins"), dir.path().join("conf.d"));
        assert_eq!(discover(&plugins, &conf).unwrap(), []);
        std::fs::create_dir(&plugins).unwrap();
        std::fs::create_dir(&conf).unwrap();
        program(&plugins.join("20-second"), 0o755);
        program(&plugins.join("10-first"), 0o700);
        program(&plugins.join("30-third"), 0o755);
        program(&plugins.join("README"), 0o644);
        std::fs::create_dir(plugins.join("directory")).unwrap();
        std::fs::write(conf.join("first.conf"), "of its name").unwrap();
        std::fs::write(conf.join("20-second.conf"), "of its file").unwrap();
        std::fs::write(conf.join("second.conf"), "not this").unwrap();
        let found = discover(&plugins, &conf).unwrap();
        let seen: Vec<_> = found
            .iter()
            .map(|found| (found.identity.to_string(), &*found.configuration))
            .collect();
        let expected = [
            ("10-first".to_owned(), "of its name"),
            ("20-second".to_owned(), "of its file"),
            ("30-third".to_owned(), ""),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn names_and_configurations_that_make_no_sense_are_errors() {
        for (name, words) in [
            ("plugin", "NN-NAME"),
            ("1-plugin", "two digits"),
            ("xx-plugin", "two digits"),
            ("10-", "named"),
            ("10-a b", "named"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            program(&dir.path().join(name), 0o755);
            let error = discover(dir.path(), dir.path()).unwrap_err();
            assert!(error.chain().to_string().contains(words), "{error:?}");
        }
        let dir = tempfile::tempdir().unwrap();
        program(&dir.path().join("10-a"), 0o755);
        let conf = dir.path().join("10-a.conf");
        let size = usize::try_from(limits::CONFIGURATION).unwrap();
        std::fs::write(&conf, vec![b'a'; size]).unwrap();
        assert!(discover(dir.path(), dir.path()).is_ok());
        std::fs::write(&conf, vec![b'a'; size + 1]).unwrap();
        let error = discover(dir.path(), dir.path()).unwrap_err();
        assert!(error.chain().to_string().contains("more than"), "{error:?}");
        std::fs::write(&conf, [0xff]).unwrap();
        assert!(discover(dir.path(), dir.path()).is_err());
        std::fs::remove_file(&conf).unwrap();
        std::fs::create_dir(&conf).unwrap();
        assert!(discover(dir.path(), dir.path()).is_err());
    }
}
