//! `rcrun state`, and the JSON object that `list` prints too.

use std::collections::BTreeMap;

use rcrun_runtime::container::{StateReport, Status};
use rcrun_runtime::error::Error;
use serde::Serialize;

use crate::output;
use crate::settings::Settings;

/// output the state of a container
///
/// The state command outputs current state information for the
/// instance of a container.
#[derive(Debug, clap::Parser)]
#[command(name = "state", disable_help_flag = true, verbatim_doc_comment)]
pub(crate) struct State {
    id: String,
}

impl crate::verbs::Run for State {
    fn run(self, settings: &Settings) -> Result<u8, Error> {
        let report = settings.runtime.state(&self.id)?;
        let record = Record {
            owner: "",
            ..Record::new(&report)
        };
        output::print(&output::json_indented(&record, "  ")?)?;
        Ok(0)
    }
}

/// The state of runtime-spec (runtime.md, "State") with runc's additions, in runc's order.
#[derive(Debug, Serialize)]
pub(super) struct Record<'a> {
    #[serde(rename = "ociVersion")]
    oci_version: &'a str,
    id: &'a str,
    pid: i32,
    status: &'static str,
    bundle: std::borrow::Cow<'a, str>,
    rootfs: std::borrow::Cow<'a, str>,
    created: &'a str,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
    owner: &'a str,
}

impl<'a> Record<'a> {
    pub(super) fn new(report: &'a StateReport) -> Self {
        Self {
            oci_version: &report.oci_version,
            id: &report.id,
            pid: if report.status == Status::Stopped {
                0
            } else {
                report.pid
            },
            status: report.status.as_str(),
            bundle: report.bundle.to_string_lossy(),
            rootfs: report.rootfs.to_string_lossy(),
            created: &report.created,
            annotations: &report.annotations,
            owner: &report.owner,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_stand_in_the_order_of_runc() {
        let report = StateReport {
            oci_version: "1.3.0".into(),
            id: "c".into(),
            pid: 7,
            status: Status::Stopped,
            bundle: "/b".into(),
            rootfs: "/b/rootfs".into(),
            created: "2026-11-21T23:57:09.5Z".into(),
            annotations: BTreeMap::new(),
            owner: "root".into(),
        };
        let text = output::json_indented(&Record::new(&report), "  ").unwrap();
        let expected = r#"{
  "ociVersion": "1.3.0",
  "id": "c",
  "pid": 0,
  "status": "stopped",
  "bundle": "/b",
  "rootfs": "/b/rootfs",
  "created": "2026-11-21T23:57:09.5Z",
  "owner": "root"
}"#;
        assert_eq!(text, expected);
    }
}
