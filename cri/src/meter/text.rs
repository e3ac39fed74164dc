//! The text format of Prometheus (prometheus.io/docs/instrumenting/exposition_formats, version 0.0.4). Pure.

use std::fmt::Write as _;

use super::histogram::Histogram;

/// Its media type.
pub(super) const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What kind of metric.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Counter,
    Gauge,
}

/// A page that is being written.
#[derive(Debug, Default)]
pub(super) struct Page(String);

impl Page {
    pub(super) fn finish(self) -> String {
        self.0
    }

    fn begin(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// A metric of one series.
    pub(super) fn one(&mut self, kind: Kind, name: &str, help: &str, value: f64) {
        self.all(kind, name, help, [(vec![], value)]);
    }

    /// A metric of series that differ in labels.
    pub(super) fn all<'a>(
        &mut self,
        kind: Kind,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (Vec<(&'a str, &'a str)>, f64)>,
    ) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        self.begin(name, kind, help);
        for (labels, value) in series {
            self.line(name, &labels, value);
        }
    }

    pub(super) fn histograms<'a>(
        &mut self,
        name: &str,
        help: &str,
        series: impl IntoIterator<Item = (Vec<(&'a str, &'a str)>, &'a Histogram)>,
    ) {
        self.begin(name, "histogram", help);
        for (labels, histogram) in series {
            let bucket = format!("{name}_bucket");
            for (limit, count) in histogram.buckets() {
                self.bucket(&bucket, &labels, &limit.to_string(), count);
            }
            self.bucket(&bucket, &labels, "+Inf", histogram.count());
            self.line(&format!("{name}_sum"), &labels, histogram.sum());
            self.line(&format!("{name}_count"), &labels, float(histogram.count()));
        }
    }

    fn bucket(&mut self, name: &str, labels: &[(&str, &str)], limit: &str, count: u64) {
        let mut labels = labels.to_vec();
        labels.push(("le", limit));
        self.line(name, &labels, float(count));
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: f64) {
        self.0.push_str(name);
        for (index, (label, value)) in labels.iter().enumerate() {
            self.0.push(if index == 0 { '{' } else { ',' });
            let _ = write!(self.0, "{label}=\"");
            for letter in value.chars() {
                match letter {
                    '\\' => self.0.push_str("\\\\"),
                    '"' => self.0.push_str("\\\""),
                    '\n' => self.0.push_str("\\n"),
                    other => self.0.push(other),
                }
            }
            self.0.push('"');
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }
}

/// The format has no others; exact up to 2^53.
#[allow(clippy::cast_precision_loss)]
pub(super) fn float(value: u64) -> f64 {
    value as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_page() {
        let mut page = Page::default();
        page.one(Kind::Gauge, "a", "An a.", 1.5);
        let series = [(vec![("x", "1"), ("y", "q\"b\\\n")], 1e9)];
        page.all(Kind::Counter, "b_total", "Bs.", series);
        let mut histogram = Histogram::of_pulls();
        histogram.add(Duration::from_secs(2));
        page.histograms("c", "Cs.", [(vec![("m", "p")], &histogram)]);
        let text = page.finish();
        let expected = "# HELP a An a.\n# TYPE a gauge\na 1.5\n\
                        # HELP b_total Bs.\n# TYPE b_total counter\nb_total{x=\"1\",y=\"q\\\"b\\\\\\n\"} 1000000000\n\
                        # HELP c Cs.\n# TYPE c histogram\nc_bucket{m=\"p\",le=\"0.1\"} 0\n";
        assert!(text.starts_with(expected), "{text}");
        let end = "c_bucket{m=\"p\",le=\"900\"} 1\nc_bucket{m=\"p\",le=\"+Inf\"} 1\nc_sum{m=\"p\"} 2\nc_count{m=\"p\"} 1\n";
        assert!(text.ends_with(end), "{text}");
    }
}
