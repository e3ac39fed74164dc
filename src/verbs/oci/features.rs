//! `rcrun features`.

use rcrun_runtime::error::Error;
use rcrun_runtime::spec::features;

use crate::settings::Settings;
use crate::{help, output};

/// show the enabled features
///
/// Show the enabled features as JSON.
/// See https://github.com/opencontainers/runtime-spec/blob/main/features.md for the type definition.
#[derive(Debug, clap::Parser)]
#[command(name = "features", disable_help_flag = true, verbatim_doc_comment)]
pub(crate) struct Features {}

impl crate::verbs::Run for Features {
    fn run(self, _: &Settings) -> Result<u8, Error> {
        let features = features::features(help::VERSION, help::COMMIT);
        output::print(&(output::json_indented(&features, "    ")? + "\n"))?;
        Ok(0)
    }
}
