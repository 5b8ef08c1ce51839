//! Everything about an instance, line by line.

use std::time::Duration;

use switchboard::{Endpoint, HealthReason, Instance};

use crate::output::{Look, clean};

/// The lines, in which nothing can steer the terminal.
pub(crate) fn lines(instance: &Instance) -> Vec<(Look, String)> {
    let look = Look::of(instance.health());
    let mut lines = vec![(look, format!("{:<10} {}", "health", instance.health()))];
    for reason in instance.health_reasons() {
        let look = Look::of(reason.health);
        lines.extend(about_check(reason).into_iter().map(|line| (look, line)));
    }
    let weight = match instance.warning_weight() {
        Some(warning) => format!("{}, {warning} while warning", instance.weight()),
        None => instance.weight().to_string(),
    };
    let metadata = instance.metadata().iter().map(|(key, value)| format!("{key}={value}"));
    let fields: [(&str, Vec<String>); 6] = [
        ("address", instance.addresses().iter().map(ToString::to_string).collect()),
        ("version", instance.version().map(str::to_owned).into_iter().collect()),
        ("weight", vec![weight]),
        ("tags", instance.tags().iter().cloned().collect()),
        ("metadata", metadata.collect()),
        ("endpoints", instance.endpoints().iter().map(about_endpoint).collect()),
    ];
    for (name, values) in fields {
        let names = std::iter::once(name).chain(std::iter::repeat(""));
        lines.extend(
            names.zip(values).map(|(name, value)| (Look::Plain, format!("{name:<10} {}", clean(&value)))),
        );
    }
    lines
}

/// What a check says, with all that it put out.
fn about_check(reason: &HealthReason) -> Vec<String> {
    let since = reason.seen_since.map(|since| format!(" for {}+", age(since.elapsed()))).unwrap_or_default();
    let said = [&reason.output, &reason.notes].into_iter().flat_map(|text| text.lines());
    let mut said = said.map(str::trim_end).filter(|line| !line.trim().is_empty());
    let first = said.next().map(|line| format!(": {}", clean(line))).unwrap_or_default();
    let mut lines = vec![format!("  {} is {}{since}{first}", clean(&reason.check), reason.health)];
    lines.extend(said.map(|line| format!("    {}", clean(line))));
    lines
}

fn about_endpoint(endpoint: &Endpoint) -> String {
    let shape = |of: &str, value: &Option<switchboard::Value>| {
        value.as_ref().map(|value| format!("{of} {}", value.kind))
    };
    let metadata = endpoint.metadata.iter().map(|(key, value)| format!("{key}={value}"));
    let name = std::iter::once(endpoint.name.clone());
    let (request, response) = (shape("takes", &endpoint.request), shape("gives", &endpoint.response));
    name.chain(request).chain(response).chain(metadata).collect::<Vec<_>>().join(" ")
}

/// A time in its largest unit.
pub(crate) fn age(time: Duration) -> String {
    match time.as_secs() {
        seconds @ 0..60 => format!("{seconds}s"),
        seconds @ 60..3600 => format!("{}m", seconds / 60),
        seconds => format!("{}h", seconds / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use switchboard::Health;

    #[test]
    fn everything_is_told_and_nothing_steers_the_terminal() {
        let reason =
            HealthReason::new("disk\x1b", Health::Critical).output("97 %\n\nfull\x07").notes("ask ops");
        let endpoint = Endpoint::new("Say").with_request(switchboard::Value::new("r", "Request"));
        let builder = Instance::builder("a").id("1").address("h:1").address("[::1]:2").version("1.2");
        let builder = builder.health(Health::Critical).health_reason(reason).warning_weight(0);
        let instance = builder.metadata("k", "a\tb").tag("x").tag("y").endpoint(endpoint).build().unwrap();
        let text: Vec<String> = lines(&instance).into_iter().map(|(_, line)| line).collect();
        let expected = [
            "health     critical",
            "  disk\\u{1b} is critical: 97 %",
            "    full\\u{7}",
            "    ask ops",
            "address    h:1",
            "           [::1]:2",
            "version    1.2",
            "weight     1, 0 while warning",
            "tags       x",
            "           y",
            "metadata   k=a\\tb",
            "endpoints  Say takes Request",
        ];
        assert_eq!(text, expected);
    }
}
