//! Which models exist, what they cost and how much they may answer.
//!
//! Pure: what an upstream lists comes in as bytes, `GET /v1/models` goes out as bytes. Every item
//! is written once, when the lists are merged; an answer only joins those that the caller may use.

mod list;
mod prices;

pub use list::{Entry, UpstreamList};
pub use prices::Prices;

use bytes::{BufMut as _, Bytes, BytesMut};
use list::Model;
use prices::Override;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

const HEAD: &[u8] = br#"{"object":"list","data":["#;
const TAIL: &[u8] = b"]}";

/// How callers name an upstream's models.
#[derive(Debug, Clone, Copy)]
pub struct UpstreamView<'a> {
    /// Name of the upstream.
    pub name: &'a str,
    /// Caller's name to this upstream's name; the `models` of its configuration.
    pub aliases: &'a BTreeMap<String, String>,
    /// What callers put before this upstream's names.
    pub prefix_strip: Option<&'a str>,
}

/// The models of all upstreams under the names callers use.
#[derive(Debug, Default)]
pub struct Catalogue {
    /// In the order of upstreams and of their lists.
    items: Vec<Arc<Item>>,
    by_id: BTreeMap<Arc<str>, Arc<Item>>,
    /// What each upstream that offers a model takes for it.
    offers: BTreeMap<Arc<str>, Vec<Offer>>,
    /// The dated names that replies carry, and a name each that callers use for the same model.
    dated: BTreeMap<Arc<str>, Arc<str>>,
}

/// What one upstream lists as the price of a model.
#[derive(Debug, Clone, PartialEq)]
pub struct Offer {
    /// Its name.
    pub upstream: Arc<str>,
    /// What tokens cost there.
    pub prices: Prices,
    /// When they cost something else.
    overrides: Arc<[Override]>,
    /// The most they may cost there; `None` where it bills something else instead.
    pub most: Option<Prices>,
}

impl Offer {
    /// What a call with so long a prompt pays that was made at that time.
    #[must_use]
    pub fn paid(&self, prompt_tokens: u64, at: SystemTime) -> Prices {
        self.prices.after(&self.overrides, prompt_tokens, at)
    }
}

#[derive(Debug)]
struct Item {
    id: Arc<str>,
    /// The item as `GET /v1/models/{id}` answers it.
    json: Bytes,
    entry: Entry,
}

impl Catalogue {
    /// The union of what the upstreams list, in their order; where two offer a model under one
    /// name the first wins. An alias is listed also when the upstream does not list its model,
    /// since the configuration promises it.
    pub fn merge<'a>(
        lists: impl IntoIterator<Item = (&'a UpstreamView<'a>, &'a UpstreamList)>,
    ) -> Self {
        let mut catalogue = Self::default();
        for (view, list) in lists {
            // Aliases first: where one bears the name of a model of the same upstream, calls
            // under that name go to the alias's model.
            for (name, target) in view.aliases {
                let unlisted = Model::unlisted(target);
                let model = list.get(target).unwrap_or(&unlisted);
                catalogue.add(name, model, view.name);
            }
            let prefix = view.prefix_strip.unwrap_or_default();
            for model in list.models() {
                catalogue.add(&format!("{prefix}{}", model.id), model, view.name);
            }
        }
        catalogue
    }

    fn add(&mut self, id: &str, model: &Model, upstream: &str) {
        self.offer(id, model, upstream);
        if self.by_id.contains_key(id) {
            return;
        }
        let id: Arc<str> = id.into();
        let json = Bytes::from(model.to_json(&id, upstream));
        let item = Arc::new(Item { id: Arc::clone(&id), json, entry: model.entry.clone() });
        // Not for an alias, nor for a variant, which may cost less and shares the dated name.
        let is_itself = id.ends_with(&model.id) && without_variant(&id) == &*id;
        if let Some(dated) = model.entry.canonical_slug.as_ref().filter(|_| is_itself) {
            self.dated.entry(dated.as_str().into()).or_insert_with(|| Arc::clone(&id));
        }
        self.items.push(Arc::clone(&item));
        self.by_id.insert(id, item);
    }

    /// Of two models of one upstream under one name the first is the one that is called.
    fn offer(&mut self, id: &str, model: &Model, upstream: &str) {
        let Some(prices) = model.entry.prices else { return };
        let offers = self.offers.entry(id.into()).or_default();
        if offers.last().is_none_or(|last| *last.upstream != *upstream) {
            let overrides = Arc::clone(&model.overrides);
            offers.push(Offer { upstream: upstream.into(), prices, overrides, most: model.most });
        }
    }

    /// What the upstreams that offer a model take for it; for a dated name, or one with a variant behind
    /// it (`…:nitro`) that is not listed, what they take for the model itself.
    pub fn offers(&self, id: &str) -> &[Offer] {
        self.find(&self.offers, id).map_or(&[], Vec::as_slice)
    }

    /// The name that callers use for the model that a reply names.
    pub fn called<'n>(&'n self, served: &'n str) -> &'n str {
        if self.by_id.contains_key(served) {
            served
        } else {
            self.dated.get(served).map_or(served, |id| id)
        }
    }

    /// The answer to `GET /v1/models`, with the models that `may_use` allows.
    pub fn body(&self, may_use: &dyn Fn(&str) -> bool) -> Bytes {
        let allowed: Vec<&Bytes> =
            self.items.iter().filter(|item| may_use(&item.id)).map(|item| &item.json).collect();
        let items: usize = allowed.iter().map(|json| json.len() + 1).sum();
        let mut body = BytesMut::with_capacity(HEAD.len() + items + TAIL.len());
        body.put_slice(HEAD);
        for (index, json) in allowed.into_iter().enumerate() {
            if index > 0 {
                body.put_u8(b',');
            }
            body.put_slice(json);
        }
        body.put_slice(TAIL);
        body.freeze()
    }

    /// The answer to `GET /v1/models/{id}`.
    pub fn item(&self, id: &str) -> Option<Bytes> {
        self.by_id.get(id).map(|item| item.json.clone())
    }

    /// What is known of a model.
    pub fn get(&self, id: &str) -> Option<&Entry> {
        self.find(&self.by_id, id).map(|item| &item.entry)
    }

    /// What is known under a name, else under the one that it is a dated form or a variant of.
    fn find<'c, T>(&self, among: &'c BTreeMap<Arc<str>, T>, id: &str) -> Option<&'c T> {
        let known = |id: &str| {
            let dated = || self.dated.get(id).and_then(|id| among.get(id));
            among.get(id).or_else(dated)
        };
        known(id).or_else(|| known(without_variant(id)))
    }

    /// What is taken for any model.
    pub fn all_offers(&self) -> impl Iterator<Item = &Offer> {
        self.offers.values().flatten()
    }

    /// The names callers use, in the order of the list.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.items.iter().map(|item| &*item.id)
    }

    /// How many models there are.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether no upstream lists anything.
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

/// The name of a model without what OpenRouter takes before and behind it to choose among its providers.
fn without_variant(id: &str) -> &str {
    let id = id.strip_prefix('~').unwrap_or(id);
    match id.rsplit_once(':') {
        Some((model, variant)) if !variant.contains('/') => model,
        Some(_) | None => id,
    }
}

#[cfg(test)]
mod tests;
