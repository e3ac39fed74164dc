//! Which lint rules speak: `# check=skip=A,B;error=true;experimental=C`, `--check=...`, `BUILDKIT_DOCKERFILE_CHECK`.

use std::collections::BTreeSet;

use super::diagnostic::Diagnostic;
use super::directive;
use super::instruction::Directives;
use super::quote::quoted;
use super::rule::Rule;
use super::value::truth;

/// A set of rules by name. Names that no rule has are allowed: the rules of other versions.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum Names {
    #[default]
    None,
    Some(BTreeSet<String>),
    All,
}

impl Names {
    fn parse(text: &str) -> Self {
        match text.trim() {
            "all" => Self::All,
            text => Self::Some(text.split(',').map(|name| name.trim().to_owned()).collect()),
        }
    }

    fn has(&self, name: &str) -> bool {
        match self {
            Self::None => false,
            Self::Some(names) => names.contains(name),
            Self::All => true,
        }
    }

    fn merge(&mut self, other: Self) {
        match (&mut *self, other) {
            (Self::All, _) | (_, Self::None) => {}
            (Self::Some(names), Self::Some(more)) => names.extend(more),
            (_, other) => *self = other,
        }
    }
}

/// Which rules speak, and whether it is an error if one does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Selection {
    skip: Names,
    experimental: Names,
    /// Any warning fails the build.
    pub error: bool,
}

impl Selection {
    /// From its text.
    ///
    /// # Errors
    ///
    /// Options other than `skip`, `error` and `experimental`; an `error` that is no boolean.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut selection = Self::default();
        if text.trim().is_empty() {
            return Ok(selection);
        }
        for option in text.trim().splitn(3, ';') {
            let (name, value) = option
                .split_once('=')
                .ok_or_else(|| format!("invalid check option {}", quoted(option)))?;
            match name.trim() {
                "skip" => selection.skip = Names::parse(value),
                "experimental" => selection.experimental = Names::parse(value),
                "error" => {
                    let value = value.trim();
                    selection.error = truth(value).ok_or_else(|| {
                        format!(
                            "failed to parse check option {}: no boolean",
                            quoted(option)
                        )
                    })?;
                }
                name => return Err(format!("invalid check option {}", quoted(name))),
            }
        }
        Ok(selection)
    }

    /// From the directive of a Dockerfile.
    ///
    /// # Errors
    ///
    /// As [`Self::parse`].
    pub fn of(directives: &Directives) -> Result<Self, Diagnostic> {
        let Some(text) = &directives.check else {
            return Ok(Self::default());
        };
        Self::parse(first_word(text)).map_err(|reason| {
            let message = format!("failed to parse check options: {reason}");
            Diagnostic::error(directives.check_span, message)
        })
    }

    /// With what the comments above an instruction say: `# check=skip=...`. What these have wrong is ignored, as is `error`.
    pub(super) fn with_comments(&self, comments: &[String]) -> std::borrow::Cow<'_, Self> {
        use std::borrow::Cow;
        let Some(text) = comments
            .iter()
            .find_map(|comment| directive::check(comment))
        else {
            return Cow::Borrowed(self);
        };
        let Ok(more) = Self::parse(first_word(text)) else {
            return Cow::Borrowed(self);
        };
        let mut merged = self.clone();
        merged.skip.merge(more.skip);
        merged.experimental.merge(more.experimental);
        Cow::Owned(merged)
    }

    /// Whether a rule speaks.
    pub fn has(&self, rule: Rule) -> bool {
        if rule.is_experimental() {
            self.experimental.has(rule.name())
        } else {
            !self.skip.has(rule.name())
        }
    }
}

/// What follows a space is a remark.
fn first_word(text: &str) -> &str {
    text.split(' ').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options() {
        let has = |text: &str, rule| Selection::parse(text).unwrap().has(rule);
        assert!(has("", Rule::StageNameCasing));
        assert!(!has("skip=all", Rule::StageNameCasing));
        assert!(!has(
            "skip=FromAsCasing, StageNameCasing ;error=1",
            Rule::StageNameCasing
        ));
        assert!(has("skip=FromAsCasing", Rule::StageNameCasing));
        assert!(!has("", Rule::InvalidDefinitionDescription));
        assert!(has(
            "experimental=all;skip=all",
            Rule::InvalidDefinitionDescription
        ));
        assert!(has(
            " experimental = InvalidDefinitionDescription",
            Rule::InvalidDefinitionDescription
        ));
        assert!(Selection::parse("error=true;skip=all").unwrap().error);
        for (text, reason) in [
            ("skip", "invalid check option \"skip\""),
            ("skipp=all", "invalid check option \"skipp\""),
            (
                "error=maybe",
                "failed to parse check option \"error=maybe\": no boolean",
            ),
            ("skip=a;error=1;experimental=b;skip=c", ""),
        ] {
            match Selection::parse(text) {
                Ok(selection) => assert!(reason.is_empty() && selection.error, "{text}"),
                Err(error) => assert_eq!(error, reason, "{text}"),
            }
        }
    }

    #[test]
    fn comments_add() {
        let selection = Selection::parse("skip=FromAsCasing").unwrap();
        let with = |comment: &str| {
            selection
                .with_comments(&["x".into(), comment.into()])
                .into_owned()
        };
        let merged = with("check=skip=StageNameCasing;error=true");
        assert!(
            !merged.has(Rule::StageNameCasing) && !merged.has(Rule::FromAsCasing) && !merged.error
        );
        assert!(!with("check = skip=all").has(Rule::UndefinedVar));
        assert_eq!(with("check=nonsense"), selection);
        assert_eq!(with("checks=skip=all"), selection);
    }
}
