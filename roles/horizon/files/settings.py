# Written by Halligan (role horizon); changes made here are lost. Further settings: horizon_settings.
# It is read after all other settings, so what stands in halligan.json wins over Debian's files beside this one.
import json

with open("/etc/openstack-dashboard/halligan.json") as halligan_settings:
    globals().update(json.load(halligan_settings))
