//! `SOURCE_DATE_EPOCH`: asks whoever knows the time that the Dockerfile or the arguments name.

use rcrun_builder::context::dated::Dated;
use rcrun_builder::dockerfile::Dockerfile;
use rcrun_builder::graph::{self, CopySource, Epoch, Problem, SOURCE_DATE_EPOCH, Wanted};
use rcrun_runtime::error::{Context, Result};

use super::contexts::Contexts;
use super::job::Job;

/// Seconds since 1970; none if nobody says anything, or what is named has no time.
pub(super) fn resolve(
    job: &Job<'_>,
    main: &Dated,
    contexts: &Contexts,
    file: &Dockerfile,
    wanted: &Wanted,
) -> Result<Option<i64>, Problem> {
    let epoch = graph::epoch(file, wanted)?;
    let time = match &epoch {
        Epoch::Unset => return Ok(None),
        Epoch::Seconds(seconds) => return Ok(Some(*seconds)),
        Epoch::Context => main.time(),
        Epoch::Named(name) => contexts.time(name),
        Epoch::Added { source, checksum } => added(job, source, checksum.as_deref()),
    };
    let time = time.context(|| SOURCE_DATE_EPOCH)?;
    if time.is_none() {
        let line = format!("{SOURCE_DATE_EPOCH}: what it names has no time, and counts as unset");
        job.progress.line(&line);
    }
    Ok(time)
}

fn added(job: &Job<'_>, source: &CopySource, checksum: Option<&str>) -> Result<Option<i64>> {
    let scratch = job.fresh(&rcrun_overlay::durable::temporary_name())?;
    let dated = match source {
        CopySource::Git(url) => {
            Dated::repository(url, checksum, &job.asked.settings.git, &scratch)?
        }
        CopySource::Http(url) => Dated::download(url, checksum, &job.asked.settings.git, &scratch)?,
        CopySource::Path(_) | CopySource::Inline { .. } => Dated::No,
    };
    dated.time()
}
