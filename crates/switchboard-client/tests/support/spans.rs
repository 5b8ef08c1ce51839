//! The spans that have ended on this thread, with what was recorded.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Once;

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

thread_local! {
    static ENDED: RefCell<Vec<Fields>> = const { RefCell::new(Vec::new()) };
}

#[derive(Clone, Default)]
struct Fields(BTreeMap<&'static str, String>);

/// Begins to listen. One subscriber for the process: with one for each thread, callsites first met on another are off.
pub(crate) fn listen() {
    static LISTEN: Once = Once::new();
    LISTEN.call_once(|| {
        tracing::subscriber::set_global_default(tracing_subscriber::registry().with(Ended)).unwrap();
    });
    ENDED.take();
}

/// The fields of the calls that have ended since, `name=value` by name, each recorded once.
pub(crate) fn calls() -> Vec<String> {
    let line = |fields: &Fields| {
        let fields: Vec<_> = fields.0.iter().map(|(name, value)| format!("{name}={value}")).collect();
        fields.join(" ")
    };
    ENDED.take().iter().map(line).collect()
}

struct Ended;

impl<S: tracing::Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Ended {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        context.span(id).unwrap().extensions_mut().insert(fields);
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let span = context.span(id).unwrap();
        let mut extensions = span.extensions_mut();
        values.record(extensions.get_mut::<Fields>().unwrap());
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let span = context.span(&id).unwrap();
        if span.name() == "call" && span.metadata().target().starts_with("switchboard_client") {
            let fields = span.extensions().get::<Fields>().unwrap().clone();
            ENDED.with_borrow_mut(|ended| ended.push(fields));
        }
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let before = self.0.insert(field.name(), format!("{value:?}"));
        assert!(before.is_none(), "{field} is recorded twice");
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }
}
