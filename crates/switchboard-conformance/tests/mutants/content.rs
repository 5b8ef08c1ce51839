//! Flaws in how the content of an instance is carried.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use switchboard_conformance::async_trait;
use switchboard_core::{Error, ErrorKind, Instance, MemoryRegistry, RegisterOptions, Registry, Result};

use crate::broken::Flaw;
use crate::{Mutant, mutant, writes};

pub(crate) fn mutants() -> Vec<Mutant> {
    vec![
        // What is lost or changed on the way.
        writes("drops what is known of endpoints", &["content::everything_is_read_back"], |it| {
            for endpoint in array(&mut it["endpoints"]) {
                *endpoint = json!({ "name": endpoint["name"] });
            }
        }),
        writes("invents a version", &["content::a_plain_instance_gains_nothing"], |it| {
            if it["version"].is_null() {
                it["version"] = "latest".into();
            }
        }),
        writes("trims metadata values", &["content::metadata_values_are_exact"], |it| {
            it["metadata"] = pairs(it, |key, value| Some((key.into(), value.trim().into())));
        }),
        writes("drops empty metadata values", &["content::metadata_values_are_exact"], |it| {
            it["metadata"] = pairs(it, |key, value| (!value.is_empty()).then(|| (key.into(), value.into())));
        }),
        writes(
            "keeps metadata keys in lower case",
            &["content::metadata_keys_are_exact", "invalid::odd_metadata_keys_are_kept_or_refused"],
            |it| it["metadata"] = pairs(it, |key, value| Some((key.to_lowercase(), value.into()))),
        ),
        writes("takes the key `service` for its own", &["content::metadata_keys_are_exact"], |it| {
            it["metadata"] = pairs(it, |key, value| (key != "service").then(|| (key.into(), value.into())));
        }),
        writes("keeps 32 metadata pairs", &["content::forty_metadata_pairs"], |it| keep_pairs(it, 32)),
        writes(
            "keeps 500 metadata pairs",
            &["invalid::a_thousand_metadata_pairs_are_kept_or_refused"],
            |it| keep_pairs(it, 500),
        ),
        writes("cuts long values", &["invalid::long_metadata_values_are_kept_or_refused"], |it| {
            it["metadata"] = pairs(it, |key, value| Some((key.into(), value.chars().take(255).collect())));
        }),
        writes("keeps tags without spaces", &["content::labels_are_exact"], |it| {
            for tag in array(&mut it["tags"]) {
                *tag = text(tag).replace(' ', "-").into();
            }
        }),
        writes("splits tags at commas", &["invalid::odd_tags_are_kept_or_refused"], |it| {
            let tags: Vec<Value> = array(&mut it["tags"])
                .iter()
                .flat_map(|tag| text(tag).split(',').map(Value::from).collect::<Vec<_>>())
                .collect();
            it["tags"] = tags.into();
        }),
        writes("keeps weights up to 255", &["content::extreme_weights"], |it| {
            it["weight"] = it["weight"].as_u64().map(|weight| weight.min(255)).into();
        }),
        writes("takes a warning weight of 0 for none", &["content::extreme_weights"], |it| {
            if it["warning_weight"] == 0 {
                it["warning_weight"] = Value::Null;
            }
        }),
        writes("writes IPv4 for IPv6", &["content::ipv6_addresses"], |it| {
            for address in array(&mut it["addresses"]) {
                *address = text(address).replace("[::1]", "127.0.0.1").into();
            }
        }),
        writes("writes host names in lower case", &["content::host_names"], |it| {
            for address in array(&mut it["addresses"]) {
                *address = text(address).to_lowercase().into();
            }
        }),
        writes("sorts addresses", &["content::several_addresses_in_order"], |it| {
            array(&mut it["addresses"]).sort_by_key(text);
        }),
        mutant("believes the given health", &["content::given_health_is_ignored"], || || BelievesHealth),
        // Names.
        writes("replaces slashes in names", &["names::odd_names_are_kept_or_refused"], |it| {
            it["service"] = text(&it["service"]).replace('/', "-").into();
        }),
        writes("cuts long names", &["names::longest_names_are_kept_or_refused"], |it| {
            it["service"] = text(&it["service"]).chars().take(63).collect::<String>().into();
        }),
        writes("writes names in lower case", &["names::upper_case"], |it| {
            it["service"] = text(&it["service"]).to_lowercase().into();
        }),
        mutant("refuses dots", &["names::dots"], || || Refuses(|it| it.service().as_str().contains('.'))),
        mutant("refuses 40 characters", &["names::sixty_characters"], || {
            || Refuses(|it| it.service().as_str().len() > 40)
        }),
        mutant(
            "does not say what is too long",
            &[
                "names::longest_names_are_kept_or_refused",
                "invalid::long_metadata_values_are_kept_or_refused",
                "invalid::a_thousand_metadata_pairs_are_kept_or_refused",
            ],
            || || Refuses(|it| format!("{it:?}").len() > 450),
        ),
    ]
}

fn array(json: &mut Value) -> &mut Vec<Value> {
    json.as_array_mut().expect("a list")
}

fn text(json: &Value) -> String {
    json.as_str().expect("a text").into()
}

/// The metadata with each pair changed, or left out.
fn pairs(it: &Value, change: impl Fn(&str, &str) -> Option<(String, String)>) -> Value {
    let metadata = it["metadata"].as_object().expect("a map").iter();
    json!(metadata.filter_map(|(key, value)| change(key, &text(value))).collect::<BTreeMap<_, _>>())
}

fn keep_pairs(it: &mut Value, most: usize) {
    let metadata = it["metadata"].as_object().expect("a map").clone();
    it["metadata"] = Value::Object(metadata.into_iter().take(most).collect());
}

struct BelievesHealth;

#[async_trait]
impl Flaw for BelievesHealth {
    async fn register(&self, inner: &MemoryRegistry, it: &Instance, options: &RegisterOptions) -> Result<()> {
        inner.register(it, options).await?;
        inner.set_health(&it.key(), it.health());
        Ok(())
    }
}

/// Refuses some instances, and says neither size nor limit.
struct Refuses(fn(&Instance) -> bool);

#[async_trait]
impl Flaw for Refuses {
    async fn register(&self, inner: &MemoryRegistry, it: &Instance, options: &RegisterOptions) -> Result<()> {
        if self.0(it) {
            return Err(Error::new(ErrorKind::Invalid, "broken", "register", "the instance is unsuitable"));
        }
        inner.register(it, options).await
    }
}
