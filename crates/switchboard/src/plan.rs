use std::fmt;
use std::str::FromStr;

use switchboard_core::{Invalid, RegistryUrl};

use crate::expression::Expression;

/// What is to be opened: one registry, or several as one.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Plan {
    Url(RegistryUrl),
    Union(Vec<Self>),
    Failover(Vec<Self>),
    Mirror(Vec<Self>),
    Route(Vec<(String, Self)>),
}

impl Plan {
    /// The same with something else in the place of each URL.
    pub(crate) fn map<E>(&self, of: &impl Fn(&RegistryUrl) -> Result<Self, E>) -> Result<Self, E> {
        let all = |parts: &[Self]| parts.iter().map(|part| part.map(of)).collect::<Result<_, E>>();
        Ok(match self {
            Self::Url(url) => of(url)?,
            Self::Union(parts) => Self::Union(all(parts)?),
            Self::Failover(parts) => Self::Failover(all(parts)?),
            Self::Mirror(parts) => Self::Mirror(all(parts)?),
            Self::Route(rules) => {
                let rule = |(pattern, to): &(String, Self)| Ok((pattern.clone(), to.map(of)?));
                Self::Route(rules.iter().map(rule).collect::<Result<_, E>>()?)
            }
        })
    }

    /// All the URLs in it.
    pub(crate) fn urls(&self) -> Box<dyn Iterator<Item = &RegistryUrl> + '_> {
        match self {
            Self::Url(url) => Box::new(std::iter::once(url)),
            Self::Union(parts) | Self::Failover(parts) | Self::Mirror(parts) => {
                Box::new(parts.iter().flat_map(Self::urls))
            }
            Self::Route(rules) => Box::new(rules.iter().flat_map(|(_, to)| to.urls())),
        }
    }
}

impl FromStr for Plan {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        Expression::parse(text)?.try_into()
    }
}

impl TryFrom<Expression<'_>> for Plan {
    type Error = Invalid;

    fn try_from(expression: Expression<'_>) -> Result<Self, Invalid> {
        let all = |parts: Vec<Expression<'_>>| {
            parts.into_iter().map(Self::try_from).collect::<Result<_, Invalid>>()
        };
        Ok(match expression {
            Expression::Url(url) => Self::Url(url.parse()?),
            Expression::Union(parts) => Self::Union(all(parts)?),
            Expression::Failover(parts) => Self::Failover(all(parts)?),
            Expression::Mirror(parts) => Self::Mirror(all(parts)?),
            Expression::Route(rules) => {
                let rule = |(pattern, to): (&str, Expression<'_>)| Ok((pattern.to_owned(), to.try_into()?));
                Self::Route(rules.into_iter().map(rule).collect::<Result<_, Invalid>>()?)
            }
        })
    }
}

/// Shows of each URL the scheme and the names of the parameters only: the rest may hold credentials.
impl fmt::Debug for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(url) => url.fmt(f),
            Self::Union(parts) => f.debug_tuple("Union").field(parts).finish(),
            Self::Failover(parts) => f.debug_tuple("Failover").field(parts).finish(),
            Self::Mirror(parts) => f.debug_tuple("Mirror").field(parts).finish(),
            Self::Route(rules) => f.debug_tuple("Route").field(rules).finish(),
        }
    }
}
