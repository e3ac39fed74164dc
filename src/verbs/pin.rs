//! `rcrun pin`: makes a pod's namespaces and binds them to files. Started by the CRI server, not by people.

use rcrun_runtime::error::{Error, Result};
use rcrun_runtime::pin::Pin as Wanted;

use super::{Count, Verb};
use crate::output;
use crate::settings::Settings;

pub(super) const VERB: Verb = Verb::new::<Pin>("pin", Count::Exactly(1), "<document>").hidden();

/// make the namespaces of a pod and bind them to files
#[derive(Debug, clap::Parser)]
#[command(name = "pin", disable_help_flag = true)]
pub(crate) struct Pin {
    document: String,
}

impl super::Run for Pin {
    fn run(self, _: &Settings) -> Result<u8, Error> {
        let wanted: Result<Wanted> = serde_json::from_str(&self.document)
            .map_err(|error| Error::invalid(format!("cannot read the document: {error}")));
        let result = wanted.and_then(|wanted| wanted.make());
        output::print(&Wanted::answer(&result))?;
        Ok(u8::from(result.is_err()))
    }
}
