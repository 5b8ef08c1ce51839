//! Several registries in one line: `consul: | mdns:`.

use switchboard_core::Invalid;

/// What a line says. Operators stand between blanks, so that nothing in a URL needs to be escaped.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Expression<'a> {
    Url(&'a str),
    Union(Vec<Self>),
    Failover(Vec<Self>),
    Mirror(Vec<Self>),
    Route(Vec<(&'a str, Self)>),
}

/// From the one that binds least to the one that binds most.
const OPERATORS: [&str; 4] = [";", "|", "+", ">"];
const ARROW: &str = "->";

const RULE: &str = "expected a rule such as `legacy-* -> consul:`";

/// A word, and the number of its first character.
type Word<'a> = (&'a str, usize);

impl<'a> Expression<'a> {
    /// Reads a line.
    pub(crate) fn parse(text: &'a str) -> Result<Self, Invalid> {
        let words: Vec<Word<'a>> = words(text);
        let is_operator = |(word, _): &Word<'_>| *word == ARROW || OPERATORS.contains(word);
        // A URL alone may hold anything.
        if !words.iter().any(is_operator) {
            return Ok(Self::Url(text));
        }
        let end = text.chars().count() + 1;
        if words.iter().any(|(word, _)| *word == ARROW) { routes(&words, end) } else { terms(&words, 1, end) }
    }
}

fn routes<'a>(words: &[Word<'a>], end: usize) -> Result<Expression<'a>, Invalid> {
    let rules = parts(words, ";", end).map(|(rule, end)| match rule {
        [(pattern, _), (arrow, _), to @ ..] if *arrow == ARROW => Ok((*pattern, terms(to, 1, end)?)),
        [] => Err(wrong(end, RULE)),
        [(_, at), ..] => Err(wrong(*at, RULE)),
    });
    rules.collect::<Result<_, _>>().map(Expression::Route)
}

/// What stands between operators of this level and above.
fn terms<'a>(words: &[Word<'a>], level: usize, end: usize) -> Result<Expression<'a>, Invalid> {
    let Some(operator) = OPERATORS.get(level) else { return url(words, end) };
    let mut terms: Vec<Expression<'a>> = parts(words, operator, end)
        .map(|(part, end)| terms(part, level + 1, end))
        .collect::<Result<_, _>>()?;
    match *operator {
        _ if terms.len() == 1 => Ok(terms.remove(0)),
        "|" => Ok(Expression::Failover(terms)),
        "+" => Ok(Expression::Union(terms)),
        _ => Ok(Expression::Mirror(terms)),
    }
}

fn url<'a>(words: &[Word<'a>], end: usize) -> Result<Expression<'a>, Invalid> {
    match words {
        [(word, at)] if *word == ARROW || OPERATORS.contains(word) => {
            Err(wrong(*at, format!("expected a registry URL, found `{word}`")))
        }
        [(url, _)] => Ok(Expression::Url(url)),
        [] => Err(wrong(end, "expected a registry URL such as `mdns:`")),
        [_, (";", at), ..] => Err(wrong(*at, "`;` stands between rules such as `legacy-* -> consul:`")),
        [_, (_, at), ..] => Err(wrong(*at, "expected `|`, `+` or `>` before this")),
    }
}

/// What stands between these operators, and where each part ends.
fn parts<'w, 'a>(
    words: &'w [Word<'a>],
    operator: &'w str,
    end: usize,
) -> impl Iterator<Item = (&'w [Word<'a>], usize)> {
    let mut from = 0;
    words.split(move |(word, _)| *word == operator).map(move |part| {
        from += part.len();
        let ends = words.get(from).map_or(end, |(_, at)| *at);
        from += 1;
        (part, ends)
    })
}

fn words(text: &str) -> Vec<Word<'_>> {
    let mut words = Vec::new();
    let mut rest = text;
    let mut at = 1;
    while let Some(start) = rest.find(|c: char| !c.is_whitespace()) {
        at += rest[..start].chars().count();
        rest = &rest[start..];
        let end = rest.find(char::is_whitespace).unwrap_or(rest.len());
        words.push((&rest[..end], at));
        at += rest[..end].chars().count();
        rest = &rest[end..];
    }
    words
}

/// Nothing but operators is repeated, since URLs may hold passwords.
fn wrong(at: usize, why: impl Into<String>) -> Invalid {
    Invalid::new(format!("registries, at character {at}"), why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use Expression::{Failover, Mirror, Route, Union, Url};

    #[test]
    fn operators_bind_as_they_are_read() {
        for (text, meant) in [
            ("mdns:?interface=lo", Url("mdns:?interface=lo")),
            ("consul:///a b.sock", Url("consul:///a b.sock")),
            ("consul: | mdns:", Failover(vec![Url("consul:"), Url("mdns:")])),
            ("a: + b: + c:", Union(vec![Url("a:"), Url("b:"), Url("c:")])),
            (" a:  >\tb: ", Mirror(vec![Url("a:"), Url("b:")])),
            (
                "a: + b: | c: > d:",
                Failover(vec![Union(vec![Url("a:"), Url("b:")]), Mirror(vec![Url("c:"), Url("d:")])]),
            ),
            (
                "legacy-* -> consul: ; * -> a:?x=1|2 + b:",
                Route(vec![("legacy-*", Url("consul:")), ("*", Union(vec![Url("a:?x=1|2"), Url("b:")]))]),
            ),
            ("* -> a:", Route(vec![("*", Url("a:"))])),
        ] {
            assert_eq!(Expression::parse(text), Ok(meant), "{text}");
        }
    }

    #[test]
    fn mistakes_are_told_where_they_are() {
        for (text, why) in [
            ("a: |", "at character 5: expected a registry URL such as `mdns:`"),
            ("| a:", "at character 1: expected a registry URL such as `mdns:`"),
            ("a: | | b:", "at character 6: expected a registry URL such as `mdns:`"),
            ("ä: | b: c:", "at character 9: expected `|`, `+` or `>` before this"),
            ("a: ; b:", "at character 4: `;` stands between rules such as `legacy-* -> consul:`"),
            ("x -> a: ; b:", "at character 11: expected a rule such as `legacy-* -> consul:`"),
            ("x -> a: ;", "at character 10: expected a rule such as `legacy-* -> consul:`"),
            ("x -> ; y -> a:", "at character 6: expected a registry URL such as `mdns:`"),
            ("->", "at character 1: expected a rule such as `legacy-* -> consul:`"),
        ] {
            assert_eq!(
                Expression::parse(text).unwrap_err().to_string(),
                format!("registries, {why}"),
                "{text}"
            );
        }
    }
}
