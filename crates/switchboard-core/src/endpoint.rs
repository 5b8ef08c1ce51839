use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One operation a service offers, such as `Greeter.Hello`, with the shape of its messages.
///
/// The model is go-micro's. A backend with little room (mDNS) carries only the name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Endpoint {
    /// The name, unique within its instance: `Greeter.Hello`.
    pub name: String,
    /// Anything worth knowing: `stream`, `method`, `path`, …
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// The shape of the request, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<Value>,
    /// The shape of the response, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<Value>,
}

impl Endpoint {
    /// An endpoint of which only the name is known.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// With one metadata pair added, or replaced.
    pub fn with_metadata(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.insert(key.into(), value.into());
        self
    }

    /// With this request shape.
    pub fn with_request(mut self, request: Value) -> Self {
        self.request = Some(request);
        self
    }

    /// With this response shape.
    pub fn with_response(mut self, response: Value) -> Self {
        self.response = Some(response);
        self
    }
}

impl From<&str> for Endpoint {
    fn from(name: &str) -> Self {
        Self::new(name)
    }
}

/// A field of a message, with the fields inside it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Value {
    /// The field's name.
    pub name: String,
    /// The field's type, in the words of the service's own language.
    #[serde(rename = "type")]
    pub kind: String,
    /// The fields inside this one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<Value>,
}

impl Value {
    /// A field without fields of its own.
    pub fn new(name: impl Into<String>, kind: impl Into<String>) -> Self {
        Self { name: name.into(), kind: kind.into(), values: Vec::new() }
    }

    /// With these fields inside.
    pub fn with_values(mut self, values: impl IntoIterator<Item = Value>) -> Self {
        self.values.extend(values);
        self
    }
}
