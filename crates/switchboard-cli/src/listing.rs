//! Lists in the form that was asked for: a table, JSON, YAML, names, or a template for each item.

use std::cmp::Ordering;
use std::fmt::Write as _;
use std::io;

use minijinja::value::{Serde, Value};
use serde::Serialize;

use crate::args::{Format, List, Sort};
use crate::failure::Failure;
use crate::output::{self, Listing};
use crate::session::Session;
use crate::template::EachItem;

/// What a list shows of one item.
pub(crate) trait Item: Serialize {
    /// What sorting may go by, in words for the error.
    const FIELDS: &'static str;

    /// The item in one word, for `-o name`.
    fn name(&self) -> String;

    /// What sorting by `field` compares; `None` if there is no such field.
    fn field(&self, field: &str) -> Option<String>;

    /// What a template sees.
    fn value(&self) -> Value {
        Value::from(Serde(self))
    }
}

impl List {
    /// The form, `--json` included.
    pub(crate) fn format(&self, session: &Session) -> Result<Option<&Format>, Failure> {
        format(self.output.as_ref(), session)
    }

    /// Sorts as was asked for, and leaves the order where nothing was.
    pub(crate) fn sort<T: Item>(&self, items: &mut [T]) -> Result<(), Failure> {
        let Some(Sort { field, descending }) = &self.sort else { return Ok(()) };
        if items.first().is_some_and(|item| item.field(field).is_none()) {
            return Err(Failure::usage(format!("--sort: no field {field:?}; there are: {}", T::FIELDS)));
        }
        items.sort_by(|a, b| {
            let (a, b) = (a.field(field).unwrap_or_default(), b.field(field).unwrap_or_default());
            let order = natural(&a, &b);
            if *descending { order.reverse() } else { order }
        });
        Ok(())
    }

    /// Writes the items in `format`; `table` makes the table, in full for `true`.
    pub(crate) fn print<T: Item>(
        &self,
        format: Option<&Format>,
        items: &[T],
        table: impl FnOnce(&[T], bool) -> Listing,
    ) -> Result<(), Failure> {
        match format {
            None | Some(Format::Wide) if items.is_empty() => {}
            None | Some(Format::Wide) => {
                table(items, format.is_some()).heads_shown(!self.no_headers).print()?;
            }
            Some(Format::Name) => output::text(&lines(items.iter().map(|item| output::clean(&item.name()))))?,
            Some(Format::Template(template)) => {
                let template = EachItem::new(template)?;
                let rendered: Vec<String> =
                    items.iter().map(|item| template.render(&item.value())).collect::<Result<_, _>>()?;
                output::text(&lines(rendered))?;
            }
            Some(structured) => write(structured, &items)?,
        }
        Ok(())
    }
}

/// The form that `-o` and `--json` ask for.
pub(crate) fn format<'a>(
    output: Option<&'a Format>,
    session: &Session,
) -> Result<Option<&'a Format>, Failure> {
    match output {
        None if session.json => Ok(Some(&Format::Json)),
        Some(other) if session.json && *other != Format::Json => {
            Err(Failure::usage(format!("--json and -o {} contradict each other", other.name())))
        }
        other => Ok(other),
    }
}

/// Writes something whole, as JSON or as YAML.
pub(crate) fn write(format: &Format, value: &impl Serialize) -> io::Result<()> {
    match format {
        Format::Yaml => output::text(&serde_saphyr::to_string(value).map_err(io::Error::other)?),
        _ => output::json(value),
    }
}

fn lines(lines: impl IntoIterator<Item = String>) -> String {
    lines.into_iter().fold(String::new(), |mut text, line| {
        let _ = writeln!(text, "{line}");
        text
    })
}

/// Compares as people do: numbers within the text count as numbers, so 1.10 comes after 1.9.
fn natural(a: &str, b: &str) -> Ordering {
    let (mut rest_a, mut rest_b) = (a, b);
    loop {
        let (number_a, number_b) = (digits(rest_a), digits(rest_b));
        if number_a > 0 && number_b > 0 {
            let (one, other) = (&rest_a[..number_a], &rest_b[..number_b]);
            let (short, long) = (one.trim_start_matches('0'), other.trim_start_matches('0'));
            let order = short.len().cmp(&long.len()).then_with(|| short.cmp(long));
            if order != Ordering::Equal {
                return order;
            }
            (rest_a, rest_b) = (&rest_a[number_a..], &rest_b[number_b..]);
            continue;
        }
        match (rest_a.chars().next(), rest_b.chars().next()) {
            (Some(one), Some(other)) if one == other => {
                (rest_a, rest_b) = (&rest_a[one.len_utf8()..], &rest_b[other.len_utf8()..]);
            }
            // What differs in leading zeros alone is no tie.
            (None, None) => return a.cmp(b),
            (one, other) => return one.cmp(&other),
        }
    }
}

/// How many digits `text` begins with.
fn digits(text: &str) -> usize {
    text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_a_text_count_as_numbers() {
        let mut all =
            ["web-10", "web-9", "1.10.0", "1.9.0", "", "é2", "é10", "07", "7", "18446744073709551616"];
        all.sort_by(|a, b| natural(a, b));
        let expected =
            ["", "1.9.0", "1.10.0", "07", "7", "18446744073709551616", "web-9", "web-10", "é2", "é10"];
        assert_eq!(all, expected);
    }
}
