//! `rcrun list`.

use rcrun_runtime::container::StateReport;
use rcrun_runtime::error::{Context, Error};

use super::state::Record;
use crate::output;
use crate::settings::Settings;

/// lists containers started by rcrun with the given root
#[derive(Debug, clap::Parser)]
#[command(name = "list", disable_help_flag = true)]
pub(crate) struct List {
    /// select one of: table or json
    #[arg(long, short, value_name = "string", default_value = "table")]
    format: String,
    /// display only container IDs
    #[arg(long, short)]
    quiet: bool,
}

impl crate::verbs::Run for List {
    fn run(self, settings: &Settings) -> Result<u8, Error> {
        if !["table", "json"].contains(&self.format.as_str()) {
            return Err(Error::invalid("invalid format option"));
        }
        let reports = reports(settings)?;
        let text = match self.format.as_str() {
            _ if self.quiet => reports
                .iter()
                .fold(String::new(), |text, r| text + &r.id + "\n"),
            "json" => json(&reports)?,
            _ => table(&reports),
        };
        output::print(&text)?;
        Ok(0)
    }
}

fn reports(settings: &Settings) -> Result<Vec<StateReport>, Error> {
    let root = &settings.runtime.root;
    match root.metadata() {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && !settings.root_given => {
            // No container has been made yet.
            return Ok(Vec::new());
        }
        found => found.context(|| format!("open {}", root.display()))?,
    };
    settings.runtime.list(&mut |id, error| {
        tracing::error!("load container {id}: {}", error.chain());
    })
}

/// No container at all is `null`: that is how Go writes an empty list, and what engines parse.
fn json(reports: &[StateReport]) -> Result<String, Error> {
    let records: Vec<Record<'_>> = reports.iter().map(Record::new).collect();
    let list = Some(records).filter(|records| !records.is_empty());
    let text = serde_json::to_string(&list).map_err(|e| Error::invalid(e.to_string()))?;
    Ok(text + "\n")
}

fn table(reports: &[StateReport]) -> String {
    let header = ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned);
    let rows = reports.iter().map(|report| {
        let pid = if report.status.as_str() == "stopped" {
            0
        } else {
            report.pid
        };
        [
            report.id.clone(),
            pid.to_string(),
            report.status.as_str().to_owned(),
            report.bundle.display().to_string(),
            report.created.clone(),
            report.owner.clone(),
        ]
    });
    output::table(&std::iter::once(header).chain(rows).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    #[test]
    fn an_empty_list_is_null() {
        assert_eq!(super::json(&[]).unwrap(), "null\n");
        assert!(super::table(&[]).starts_with("ID          PID         STATUS      BUNDLE"));
    }
}
