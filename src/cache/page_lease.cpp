#include "src/cache/page_lease.hpp"

#include "src/cache/invariant.hpp"

namespace troupe::cache {

const page_lease::page& page_lease::at(page_id p) const {
  require(p < pages_.size(), "page id out of range");
  return pages_[p];
}

void page_lease::add(page_id p) {
  page& x = at(p);
  require(x.state == page_state::away, "a page was leased twice");
  x.state = page_state::stock;
  ++n_known_;
  stock_.push_back(p);
}

page_id page_lease::take() {
  require(!stock_.empty(), "a page was taken from an empty stock");
  const page_id p = stock_.back();
  stock_.pop_back();
  pages_[p] = {page_state::owned, 1};
  ++n_owned_;
  return p;
}

void page_lease::share(page_id p) {
  page& x = at(p);
  require(x.state == page_state::away || x.state == page_state::shared, "a hit names a page that is not indexed");
  if (x.state == page_state::away) {
    x = {page_state::shared, 0};
    ++n_shared_;
    ++n_known_;
  }
  ++x.refs;
}

void page_lease::publish(page_id p) {
  page& x = at(p);
  if (x.state == page_state::shared) return;
  require(x.state == page_state::owned, "a page was published that no sequence owns");
  x.state = page_state::shared;
  --n_owned_;
  ++n_shared_;
}

void page_lease::retire(page_id p, step_seq epoch, step_seq done) {
  page& x = at(p);
  require((x.state == page_state::owned || x.state == page_state::shared) && x.refs > 0,
          "a page was retired that is not in use");
  const retired r{p, x.state == page_state::shared, epoch};
  --x.refs;
  if (r.shared) {
    if (x.refs == 0) {
      x.state = page_state::away;  // what remains is the pin, which travels with the entry
      --n_shared_;
      --n_known_;
    }
  } else {
    x.state = page_state::retiring;
    --n_owned_;
    ++n_retiring_owned_;
  }
  if (epoch <= done)
    let_go(r);
  else
    retiring_.push_back(r);
}

void page_lease::let_go(const retired& r) {
  if (r.shared) {
    returns.push_back(r.page);
    return;
  }
  page& x = at(r.page);
  require(x.state == page_state::retiring, "a retiring page was used");
  x.state = page_state::stock;
  --n_retiring_owned_;
  stock_.push_back(r.page);
}

void page_lease::plans_done(step_seq done) {
  std::size_t kept = 0;
  for (std::size_t i = 0; i < retiring_.size(); ++i)
    if (retiring_[i].epoch <= done)
      let_go(retiring_[i]);
    else
      retiring_[kept++] = retiring_[i];
  retiring_.resize(kept);
}

void page_lease::return_stock() {
  for (page_id p : stock_) {
    pages_[p].state = page_state::away;
    --n_known_;
    returns.push_back(p);
  }
  stock_.clear();
}

void page_lease::check() const {
  require(stock_.size() + n_owned_ + n_shared_ + n_retiring_owned_ == n_known_, "a page is in no state or in two");
  require(retiring_.size() >= n_retiring_owned_, "a retiring page has no entry");
}

void page_lease::audit() const {
  check();
  std::uint32_t n[5] = {};
  for (const page& x : pages_) {
    ++n[static_cast<int>(x.state)];
    const bool in_use = x.state == page_state::owned || x.state == page_state::shared;
    require(in_use ? x.refs > 0 : x.refs == 0, "references do not match the state of a page");
    require(x.state != page_state::owned || x.refs == 1, "a page has two owners");
  }
  require(n[1] == n_stock() && n[2] == n_owned_ && n[3] == n_shared_ && n[4] == n_retiring_owned_,
          "the counts do not match the pages");
}

}  // namespace troupe::cache
