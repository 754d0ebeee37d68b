"""What one worker acknowledged, any other knows: a declined action does not come back."""

from __future__ import annotations

from tests.service import Running

PAIRS = 500


def test_a_declined_action_never_comes_back_on_the_other_worker(service: Running) -> None:
    declined = 0
    with service.workers() as clients:
        first, second = clients.values()
        for number in range(PAIRS):
            asks, tells = (first, second) if number % 2 else (second, first)
            customer = f"ryw-{number}"
            reply = service.decide(customer, "web", asks, exclude=["help"])
            (slot,) = reply["slots"]
            if not slot.get("action"):
                continue
            event = {"event_id": f"ryw-{number}", "type": "declined", "decision_id": reply["decision_id"]}
            (result,) = service.record(event, client=tells)
            assert result["outcome"] == "declined"
            declined += 1
            after = service.decide(customer, "web", asks, slots=3, explain="reasons")
            assert slot["action"] not in {other.get("action") for other in after["slots"]}, customer
            assert [slot["action"], "paused"] in [found[:2] for found in after["explanation"]["removed"]]
    assert declined > PAIRS / 2, "the test hardly tested anything"


def test_a_page_view_is_in_the_next_decision_on_the_other_worker(service: Running) -> None:
    with service.workers() as clients:
        first, second = clients.values()
        for number in range(50):
            event = {"event_id": f"ryw-view-{number}", "type": "page_view", "customer_id": "ryw-viewer"}
            service.record(event, client=first)
            reply = service.decide("ryw-viewer", "web", second)
            report = service.http.get(f"/v1/decisions/{reply['decision_id']}").json()
            (views,) = [of for name, of in report["x"].items() if name.startswith("visits")]
            expected = service.http.get("/v1/customers/ryw-viewer?events=0").json()["features"]["visits"]
            assert expected == number + 1
            assert views > 0
