//! `rcrun generate`: man pages and shell completions, for packagers.
//!
//! Only in builds with the feature of the same name; the one place that builds the full clap tree.

use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, Command};
use clap_complete::Shell;
use rcrun_runtime::error::{Context, Error, Result};

use super::{Count, Verb};
use crate::settings::{GLOBAL, Settings};

pub(super) const VERB: Verb =
    Verb::new::<Generate>("generate", Count::Exactly(1), "<directory>").hidden();

/// write man pages and shell completions into a directory
#[derive(Debug, clap::Parser)]
#[command(name = "generate", disable_help_flag = true)]
pub(crate) struct Generate {
    directory: PathBuf,
}

impl super::Run for Generate {
    fn run(self, _: &Settings) -> Result<u8, Error> {
        let failed = || format!("cannot write to {}", self.directory.display());
        std::fs::create_dir_all(&self.directory).context(failed)?;
        let tree = tree();
        page(&tree, "rcrun", &self.directory).context(failed)?;
        for verb in tree.get_subcommands() {
            page(verb, &format!("rcrun-{}", verb.get_name()), &self.directory).context(failed)?;
        }
        for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
            clap_complete::generate_to(shell, &mut tree.clone(), "rcrun", &self.directory)
                .context(failed)?;
        }
        Ok(0)
    }
}

/// The whole command line as clap sees it.
fn tree() -> Command {
    let globals = GLOBAL.iter().map(|(flag, help)| {
        let action = if flag.takes_value {
            ArgAction::Set
        } else {
            ArgAction::SetTrue
        };
        let argument = Arg::new(flag.long)
            .long(flag.long)
            .help(*help)
            .action(action);
        match flag.short {
            Some(short) => argument.short(short),
            None => argument,
        }
    });
    let verbs = super::all()
        .filter(|verb| !verb.hidden)
        .map(|verb| (verb.command)());
    Command::new("rcrun")
        .about("Open Container Initiative runtime")
        .disable_help_flag(true)
        .disable_version_flag(true)
        .args(globals)
        .subcommands(verbs)
}

fn page(command: &Command, name: &str, directory: &Path) -> std::io::Result<()> {
    // The title is the name of the page; clap wants names that live as long as the program.
    let command = command
        .clone()
        .name(name.to_owned())
        .bin_name(name.replacen('-', " ", 1));
    let mut text = Vec::new();
    clap_mangen::Man::new(command)
        .section("8")
        .render(&mut text)?;
    std::fs::write(directory.join(format!("{name}.8")), text)
}
