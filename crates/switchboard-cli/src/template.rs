//! Templates, in the language of Jinja: what is not there is an error, and nothing is escaped.

use std::io::{self, IsTerminal as _};

use minijinja::value::Value;
use minijinja::{AutoEscape, Environment, Error, ErrorKind, UndefinedBehavior, escape_formatter};

use crate::failure::{Failure, chain};
use crate::output;

/// The name that errors have for a template from the command line.
const NAME: &str = "template";

/// An environment in which a mistake is an error, and which writes configuration files rather than HTML.
pub(crate) fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    // Else an error does not know what was undefined.
    environment.set_debug(true);
    environment.set_auto_escape_callback(|_| AutoEscape::None);
    environment.set_formatter(|out, state, value| {
        // A version that is not known is nothing, and not the word "none".
        if value.is_none() { Ok(()) } else { escape_formatter(out, state, value) }
    });
    environment
}

/// A template that writes one line for each item of a list.
#[derive(Debug)]
pub(crate) struct EachItem(Environment<'static>);

impl EachItem {
    pub(crate) fn new(text: &str) -> Result<Self, Failure> {
        let mut environment = environment();
        if io::stdout().is_terminal() {
            environment.set_formatter(|out, _, value| {
                let text = if value.is_none() { String::new() } else { output::clean(&value.to_string()) };
                out.write_str(&text).map_err(|error| Error::new(ErrorKind::WriteFailure, error.to_string()))
            });
        }
        let added = environment.add_template_owned(NAME, text.to_owned());
        added.map_err(|error| Failure::usage("-o").because(&error))?;
        Ok(Self(environment))
    }

    pub(crate) fn render(&self, item: &Value) -> Result<String, Failure> {
        let rendered = self.0.get_template(NAME).and_then(|template| template.render(item.clone()));
        rendered.map_err(|error| {
            let known = match error.kind() {
                ErrorKind::UndefinedError => format!("; an item has: {}", fields(item)),
                _ => String::new(),
            };
            // What one instance lacks is no mistake of the command line.
            Failure::failed(format!("-o: {}{known}", chain(&error)))
        })
    }
}

fn fields(value: &Value) -> String {
    value.try_iter().map(output::list).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use minijinja::value::Serde;

    fn render(text: &str, item: &serde_json::Value) -> Result<String, String> {
        let template = EachItem::new(text).map_err(|failure| failure.to_string())?;
        template.render(&Value::from(Serde(item))).map_err(|failure| failure.to_string())
    }

    #[test]
    fn an_item_is_written_and_what_it_lacks_is_named() {
        let item = serde_json::json!({"id": "<a>", "version": null, "metadata": {"zone": "x"}});
        assert_eq!(render("{{ id }} [{{ version }}] {{ metadata.zone }}", &item), Ok("<a> [] x".into()));
        let missing = render("{{ adress }}", &item).unwrap_err();
        assert!(missing.contains("`adress` is undefined (in template:1)"), "{missing}");
        assert!(missing.contains("id,metadata,version"), "{missing}");
        assert_eq!(render("{{ metadata.rack | default('-') }}", &item), Ok("-".into()));
        assert!(render("{{ id", &item).unwrap_err().starts_with("-o: syntax error"));
    }
}
