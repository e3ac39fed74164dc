//! The time of a source, for `SOURCE_DATE_EPOCH=context` and its like.
//!
//! As BuildKit has it (docs/build-repro.md): of a repository when its commit was made; of a file of a server
//! its `Last-Modified`, or else, if it is an archive, the latest time of a file in it. A directory of the
//! host has none.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcrun_overlay::archive::{Kind, Reader};
use rcrun_overlay::compress::Limits;
use rustix::fs::{CWD, Mode, OFlags};

use super::copy::{detect_archive, open_archive, rewind};
use super::{git, http};
use crate::attest::address::redacted;
use crate::{Context, Digest, Error, Result};

/// What tells the time of a source. Asked late: few builds want to know.
#[derive(Debug, Clone, Default)]
pub enum Dated {
    /// Nothing does.
    #[default]
    No,
    /// A commit.
    Commit {
        /// Where it was fetched into; still there when it is asked.
        scratch: PathBuf,
        /// Where it is from.
        address: Box<git::Address>,
        /// Its id.
        commit: String,
    },
    /// A file.
    File {
        /// What the server said.
        modified: Option<u64>,
        /// Its contents.
        file: Arc<OwnedFd>,
    },
}

impl Dated {
    /// Seconds since 1970, if there is a time.
    pub fn time(&self) -> Result<Option<i64>> {
        match self {
            Self::No => Ok(None),
            Self::Commit {
                scratch,
                address,
                commit,
            } => git::time(address, commit, scratch).map(Some),
            Self::File {
                modified: Some(seconds),
                ..
            } => Ok(i64::try_from(*seconds).ok()),
            Self::File { file, .. } => newest(file),
        }
    }

    /// A repository that is fetched for nothing else.
    pub fn repository(
        url: &str,
        checksum: Option<&str>,
        settings: &git::Settings,
        scratch: &Path,
    ) -> Result<Self> {
        let invalid = || Error::invalid(format!("{} is no git repository", redacted(url)));
        let mut address = git::parse(url)?.ok_or_else(invalid)?;
        if let Some(checksum) = checksum {
            address.checksum = Some(checksum.to_owned());
        }
        address.submodules = Some(false);
        let resolved = git::resolve(&address, settings)?;
        git::checkout(&address, &resolved, settings, scratch)?;
        Ok(Self::Commit {
            scratch: scratch.to_owned(),
            address: Box::new(address),
            commit: resolved.commit,
        })
    }

    /// A file of a server that is fetched for nothing else.
    pub fn download(
        url: &str,
        checksum: Option<&str>,
        settings: &git::Settings,
        scratch: &Path,
    ) -> Result<Self> {
        let checksum: Option<Digest> = checksum.map(str::parse).transpose()?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(CWD, scratch, flags, Mode::empty())
            .context(|| format!("cannot open {}", scratch.display()))?;
        let request = http::Request {
            url,
            name: Some("file"),
            checksum: checksum.as_ref(),
            etag: None,
            credentials: &settings.credentials,
            typed: false,
        };
        match http::fetch(&http::client(&settings.notice), &request, directory.as_fd())? {
            http::Fetched::New(download) => Ok(Self::File {
                modified: download.modified,
                file: Arc::new(super::view::read(directory.as_fd(), b"file")?),
            }),
            http::Fetched::Unchanged => {
                Err(Error::invalid(format!("cannot fetch {}", redacted(url))))
            }
        }
    }
}

/// The latest time of a file in an archive; none if this is no archive, or has no file.
fn newest(file: &OwnedFd) -> Result<Option<i64>> {
    rewind(file)?;
    let Some(format) = detect_archive(file)? else {
        return Ok(None);
    };
    rewind(file)?;
    let stream = open_archive(file, format, Limits::default())?;
    let mut reader = Reader::new(stream).nameless();
    let mut newest = None;
    while let Some(entry) = reader.next_entry()? {
        if entry.kind == Kind::Regular {
            newest = newest.max(Some(entry.mtime.seconds));
        }
    }
    Ok(newest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::testing::Server;

    fn tar(files: &[(tar::EntryType, u64)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (number, (kind, time)) in files.iter().enumerate() {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            header.set_entry_type(*kind);
            header.set_size(0);
            header.set_mtime(*time);
            builder
                .append_data(&mut header, format!("f{number}"), &[][..])
                .unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn of_files() {
        use tar::EntryType::{Directory, Regular};
        const SAID: &str = "Last-Modified: Wed, 21 Oct 2015 07:28:00 GMT\r\n";
        let archive = tar(&[(Regular, 5), (Regular, 1_700_000_302), (Directory, 1 << 32)]);
        let server = Server::new(vec![
            ("/said.tar", 200, SAID, archive.clone()),
            ("/quiet.tar", 200, "", archive),
            ("/empty.tar", 200, "", tar(&[(Directory, 9)])),
            ("/text", 200, "", b"text".to_vec()),
        ]);
        let none = git::Settings::default();
        for (path, expected) in [
            ("/said.tar", Some(1_445_412_480)),
            ("/quiet.tar", Some(1_700_000_302)),
            ("/empty.tar", None),
            ("/text", None),
        ] {
            let scratch = tempfile::tempdir().unwrap();
            let dated = Dated::download(&server.url(path), None, &none, scratch.path()).unwrap();
            assert_eq!(dated.time().unwrap(), expected, "{path}");
            // Whoever asks twice hears the same.
            assert_eq!(dated.time().unwrap(), expected, "{path}");
        }
        let scratch = tempfile::tempdir().unwrap();
        let other = Digest::of(b"other").to_string();
        let wrong = Dated::download(&server.url("/text"), Some(&other), &none, scratch.path());
        assert!(wrong.unwrap_err().chain().to_string().contains("mismatch"));
        assert_eq!(Dated::No.time().unwrap(), None);
    }
}
