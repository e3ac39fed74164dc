//! `rcrun serve`: the CRI server, for a kubelet.

use std::path::Path;

use rcrun_cri::check::{Facts, Verdict, judge};
use rcrun_cri::{Current, Host};
use rcrun_image::registry::{Credentials, Options};
use rcrun_overlay::gc::Policy;
use rcrun_runtime::error::{Context, Error, ErrorKind, Result};

use super::{Count, Verb};
use crate::settings::{Settings, in_user_namespace};
use crate::{help, images, output};

/// The row.
pub(super) const VERB: Verb =
    Verb::people::<Serve>("serve", Count::Exactly(0), USAGE).without_store();

const USAGE: &str = "

What can be set is the section `cri` of the settings file (docs/settings.md).
SIGHUP reads it again; SIGTERM ends the server when its requests are answered.";

/// serve the CRI on a unix socket, for a kubelet
#[derive(Debug, clap::Parser)]
#[command(name = "serve", disable_help_flag = true)]
pub(crate) struct Serve {
    /// tell what this node lacks, and do not serve
    #[arg(long, conflicts_with = "print_settings")]
    check: bool,
    /// listen here instead of where the settings say: unix:///PATH
    #[arg(long, value_name = "SOCKET")]
    listen: Option<String>,
    /// print the section `cri` as it counts, with all defaults, and do not serve
    #[arg(long)]
    print_settings: bool,
}

impl super::Run for Serve {
    fn run(self, settings: &Settings) -> Result<u8> {
        let mut cri = settings.file()?.cri;
        if let Some(listen) = self.listen {
            cri.listen = listen;
        }
        cri.check()?;
        if self.print_settings {
            let section = serde_json::json!({ "cri": cri });
            let text = serde_json::to_string_pretty(&section)
                .map_err(|error| Error::new(ErrorKind::Internal, error.to_string()))?;
            output::print(&format!("{text}\n"))?;
            return Ok(0);
        }
        if self.check {
            return check(&settings.store_path()?, &cri);
        }
        if !rustix::process::geteuid().is_root() || in_user_namespace() {
            let message = "cannot serve the CRI without root's rights on the machine";
            return Err(Error::new(ErrorKind::PermissionDenied, message));
        }
        let host = host(settings)?;
        rcrun_cri::serve(host, &cri).context(|| "cannot serve the CRI")?;
        Ok(0)
    }
}

/// What the server gets from the rest of the program.
fn host(settings: &Settings) -> Result<Host> {
    let current = settings.clone();
    Ok(Host {
        store: settings.store()?,
        root: std::path::absolute(&settings.runtime.root).context(|| "cannot resolve --root")?,
        way: images::way(),
        version: help::VERSION,
        current: Box::new(move || {
            let file = current.file()?;
            file.cri.check()?;
            let variable = |name: &str| std::env::var(name).ok();
            let mut registries = Options::new(file.registries, variable);
            // Those of root's own files are not for everybody's pods.
            registries.credentials = Credentials::none();
            Ok(Current {
                cri: file.cri,
                registries,
            })
        }),
        sweep: Box::new(|store| images::sweep(store, &Policy::default()).map(drop)),
    })
}

/// Prints what this node has and lacks; fails if the server could not work.
fn check(store: &Path, cri: &rcrun_cri::Settings) -> Result<u8> {
    let mut code = 0;
    let mut text = String::new();
    for finding in judge(&Facts::read(store, cri)) {
        let word = match finding.verdict {
            Verdict::Fine => "ok",
            Verdict::Note => "note",
            Verdict::Lacking => "lacking",
            Verdict::Missing => "missing",
        };
        if finding.verdict == Verdict::Missing {
            code = 1;
        }
        text += &format!("{word:8} {}: {}\n", finding.subject, finding.words);
    }
    output::print(&text)?;
    Ok(code)
}
