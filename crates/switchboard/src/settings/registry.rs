use std::fmt;
use std::str::FromStr;

use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use switchboard_core::{Invalid, RegistryUrl};

use crate::plan::Plan;

/// Which registry: what [`connect`](crate::connect) reads, as a text or as a table.
///
/// | | |
/// |---|---|
/// | `"consul: \| mdns:"` | a URL, or several as one |
/// | `{ url = "consul:", dc = "dc1", tag = ["a", "b"], tls = true }` | a URL, and parameters that it need not carry; a list is one given several times |
/// | `{ union = […] }`, `{ failover = […] }`, `{ mirror = […] }` | several as one, each of them a text or a table |
/// | `{ route = [{ pattern = "legacy-*", registry = … }, …] }` | by the service's name |
///
/// Shown by `{:?}` without anything that may be a credential.
#[derive(Clone, PartialEq, Eq)]
pub struct RegistrySettings(pub(crate) Plan);

impl FromStr for RegistrySettings {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        text.parse().map(Self)
    }
}

impl fmt::Debug for RegistrySettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<'de> Deserialize<'de> for RegistrySettings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader)
    }
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    pattern: String,
    registry: RegistrySettings,
}

/// The value of a parameter.
#[derive(serde::Deserialize)]
#[serde(untagged, expecting = "expected a text, a number, true, false, or a list of these")]
enum Value {
    Switch(bool),
    Whole(i64),
    Number(f64),
    Text(String),
    Several(Vec<Value>),
}

impl Value {
    /// Adds it to `url` under this name.
    fn add(self, name: &str, url: RegistryUrl) -> RegistryUrl {
        match self {
            Self::Switch(on) => url.with(name, on.to_string()),
            Self::Whole(number) => url.with(name, number.to_string()),
            Self::Number(number) => url.with(name, number.to_string()),
            Self::Text(text) => url.with(name, text),
            Self::Several(values) => values.into_iter().fold(url, |url, value| value.add(name, url)),
        }
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = RegistrySettings;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a registry: a URL, or a table with `url`, `union`, `failover`, `mirror` or `route`")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut several: Option<Plan> = None;
        let mut url: Option<RegistryUrl> = None;
        let mut parameters: Vec<(String, Value)> = Vec::new();
        let plans =
            |parts: Vec<RegistrySettings>| parts.into_iter().map(|RegistrySettings(plan)| plan).collect();
        while let Some(key) = map.next_key::<String>()? {
            let plan = match &*key {
                "url" => {
                    url = Some(map.next_value::<String>()?.parse().map_err(de::Error::custom)?);
                    continue;
                }
                "union" => Plan::Union(plans(map.next_value()?)),
                "failover" => Plan::Failover(plans(map.next_value()?)),
                "mirror" => Plan::Mirror(plans(map.next_value()?)),
                "route" => {
                    let rules: Vec<Rule> = map.next_value()?;
                    Plan::Route(rules.into_iter().map(|rule| (rule.pattern, rule.registry.0)).collect())
                }
                _ => {
                    parameters.push((key, map.next_value()?));
                    continue;
                }
            };
            if several.replace(plan).is_some() {
                return Err(de::Error::custom(
                    "a registry is one of `union`, `failover`, `mirror` and `route`",
                ));
            }
        }
        match (several, url) {
            (Some(plan), None) if parameters.is_empty() => Ok(RegistrySettings(plan)),
            (None, Some(url)) => {
                let url = parameters.into_iter().fold(url, |url, (name, value)| value.add(&name, url));
                Ok(RegistrySettings(Plan::Url(url)))
            }
            (Some(_), _) => Err(de::Error::custom(
                "`union`, `failover`, `mirror` and `route` stand alone; parameters belong to the registries in them",
            )),
            (None, None) => Err(de::Error::missing_field("url")),
        }
    }
}
